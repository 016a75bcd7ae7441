"""Whether active learning pays: BANKING77, from 150 labels to 1,500, in the product's order and in random order.

Everything that decides is the product's own: the policy says when to train, the shipped text classifier is trained and
ranks what is not labelled yet, and a refresh's `Ranking` keeps the 1,000 most useful tasks. An annotator takes them one
by one, goes on in the old order while a run trains, and in random order when the ranked ones are used up. After every
50 labels a classifier is trained on the labels so far and scored on the 3,080 test rows.
Usage: python -m benchmarks.active_learning [--json] [--short] [--png FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from benchmarks.banking77 import Ours, Questions
from benchmarks.common import Options, Row, folder, report
from benchmarks.growth import DEFAULT, Pace, simulate
from ml_backend.refresh.planning import Kept, Ranking
from ml_backend.settings import PredictionSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS = ("random", "product")
SEEDS = (0, 1, 2, 3, 4)
SEED_LABELS, LAST, STEP = 150, 1_500, 50
GOAL, STRETCH = 1_150, 1_000


@dataclass
class Curve:
    """Accuracy by the number of labels, of one order and one seed."""

    order: str
    seed: int
    accuracy: dict[int, float] = field(default_factory=dict)
    runs: int = 0


class Annotation:
    """One project, labelled in one order; ``labelled`` are rows of the training set, the first labelled first."""

    def __init__(self, questions: Questions, where: Path, order: str, seed: int, first: int) -> None:
        self._questions, self._order, self._seed = questions, order, seed
        self._ours = Ours(questions, where, seed)
        rows = list(range(len(questions.train)))
        random.Random(seed).shuffle(rows)
        self.labelled, self._rest = rows[:first], rows[first:]

    def label(self, until: int) -> None:
        """Take tasks in the order that is in force."""
        count = until - len(self.labelled)
        self.labelled += self._rest[:count]
        del self._rest[:count]

    def retrained(self, size: int) -> None:
        """A run that saw the first ``size`` labels has ended: a refresh gives the tasks their new order."""
        if self._order == "random":
            return
        self._train(size)
        texts = [{"id": row, "data": {"text": self._questions.train[row][0]}} for row in self._rest]
        ranking = Ranking(PredictionSettings().limit)
        for row, answer in zip(self._rest, self._ours.model.predict(texts), strict=True):
            ranking.add(row, answer["score"], Kept(b"", [], answer["score"]))
        first = ranking.picks()
        chosen = set(first)
        self._rest = first + [row for row in self._rest if row not in chosen]

    def accuracy(self) -> float:
        """Of a classifier that is trained on all labels so far, on the test rows."""
        self._train(len(self.labelled))
        guessed, _ = self._ours.guess([text for text, _ in self._questions.test])
        return statistics.mean(
            float(guess == label) for guess, (_, label) in zip(guessed, self._questions.test, strict=True)
        )

    def _train(self, size: int) -> None:
        self._ours.fit([self._questions.train[row] for row in self.labelled[:size]])()
        self._ours.load()


def curve(questions: Questions, where: Path, order: str, seed: int, *, first: int, last: int, step: int) -> Curve:
    """Label from ``first`` to ``last``, scoring after every ``step`` labels."""
    project = Annotation(questions, where, order, seed, first)
    found = Curve(order, seed)
    # When runs begin and end depends on the number of labels alone, so it is known beforehand.
    growth = simulate(last, DEFAULT, Pace(), already=first)
    found.runs = len(growth.sizes)
    stops = {ends: size for size, ends in zip(growth.sizes, growth.ends, strict=True) if ends < last}
    scored = {*range(first, last + 1, step), last}
    for size in sorted({*stops, *scored}):
        project.label(size)
        if size in scored:
            found.accuracy[size] = project.accuracy()
        if size in stops:
            project.retrained(stops[size])
    return found


def mean(curves: Sequence[Curve], order: str) -> dict[int, float]:
    """The mean accuracy of the seeds, by the number of labels."""
    chosen = [one for one in curves if one.order == order]
    return {size: statistics.mean(one.accuracy[size] for one in chosen) for size in chosen[0].accuracy}


def reached(means: dict[int, float], accuracy: float) -> float | None:
    """With how many labels the mean curve first reaches an accuracy, between two points on a straight line."""
    before: tuple[int, float] | None = None
    for size, value in sorted(means.items()):
        if value >= accuracy:
            if before is None:
                return float(size)
            return before[0] + (size - before[0]) * (accuracy - before[1]) / (value - before[1])
        before = size, value
    return None


def rows(curves: Sequence[Curve]) -> list[Row]:
    """The table."""
    chance, ours = mean(curves, "random"), mean(curves, "product")
    last = max(chance)
    needed = reached(ours, chance[last])
    made = [Row(f"accuracy, {size:,} labels", ours[size], "", chance[size], ours[size] / chance[size]) for size in ours]
    spread = [reached(one.accuracy, chance[last]) for one in curves if one.order == "product"]
    note = "each seed: " + ", ".join("never" if one is None else f"{one:.0f}" for one in spread)
    goal = f"<= {GOAL:,} (stretch {STRETCH:,})"
    met = needed is not None and needed <= GOAL
    made.append(
        Row(
            f"labels for random's accuracy at {last:,}",
            needed or 0.0,
            "labels",
            last,
            (needed or 0) / last,
            goal,
            met,
            note,
        )
    )
    made.append(Row("runs", next(one.runs for one in curves), "runs", note="the product's policy"))
    return made


def draw(curves: Sequence[Curve], file: Path) -> None:
    """The mean curves, and where random's last accuracy is reached, as a picture."""
    # A benchmark-only library: the table does without it.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), dpi=120)
    for order, colour, name in (
        ("product", "#c2410c", "tasks in the product's order"),
        ("random", "#475569", "random order"),
    ):
        for one in curves:
            if one.order == order:
                axes.plot(*zip(*sorted(one.accuracy.items()), strict=True), color=colour, alpha=0.15, linewidth=1)
        axes.plot(*zip(*sorted(mean(curves, order).items()), strict=True), color=colour, linewidth=2, label=name)
    last = max(mean(curves, "random"))
    level = mean(curves, "random")[last]
    needed = reached(mean(curves, "product"), level)
    axes.axhline(level, color="#94a3b8", linewidth=1, linestyle=":")
    if needed is not None:
        axes.plot([needed], [level], "o", color="#c2410c")
        axes.annotate(f"{needed:.0f} labels", (needed, level), xytext=(-8, 8), textcoords="offset points", ha="right")
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy on 3,080 test questions")
    axes.set_title(f"BANKING77, 77 intents, mean of {len({one.seed for one in curves})} seeds")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def measured(chosen: Options, seeds: Sequence[int] = SEEDS) -> list[Curve]:
    """A curve for each order and seed."""
    questions = Questions.read(intents=5 if chosen.short else None)
    first, last, step = (20, 60, 20) if chosen.short else (SEED_LABELS, LAST, STEP)
    with folder() as where, threadpool_limits(1):
        return [
            curve(questions, where, order, seed, first=first, last=last, step=step)
            for seed in (seeds[:1] if chosen.short else seeds)
            for order in ORDERS
        ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--short", action="store_true", help="a smoke test: that it works, not what it brings")
    parser.add_argument("--png", type=Path, help="draw the curves into this file (needs matplotlib)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--curves", type=Path, nargs="*", default=[], help="curves of earlier calls (--save), not measured again"
    )
    parser.add_argument("--save", type=Path, help="write the curves into this file")
    given = parser.parse_args()
    chosen = Options(1, given.short, given.json)
    if given.curves:
        told = [one for file in given.curves for one in json.loads(file.read_text())]
        curves = [
            Curve(one["order"], one["seed"], {int(size): value for size, value in one["accuracy"].items()}, one["runs"])
            for one in told
        ]
    else:
        curves = measured(chosen, given.seeds)
    if given.save:
        given.save.write_text(json.dumps([one.__dict__ for one in curves]))
    report("BANKING77: labels in the product's order beside random order (peer)", rows(curves), chosen)
    if given.png:
        draw(curves, given.png)


if __name__ == "__main__":
    main()
