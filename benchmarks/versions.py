"""From labels to the new version, beside the bare fit of the same model; and from ``ml-backend start`` to /health.

Usage: python -m benchmarks.versions [--json] [--short] [--rounds N] [--only labels|start]
"""

from __future__ import annotations

import statistics
import time

from benchmarks.banking77 import Ours, Questions
from benchmarks.common import Options, Row, folder, options, report, seconds, single
from benchmarks.fed import FedBackend
from benchmarks.processes import settled
from tests.running import RunningBackend

SIZES = (100, 1_000, 10_000)
FACTOR, ALLOWANCE_S = 1.3, 0.8
PARTS = ("labels", "start")


def bare_fit(questions: Questions, size: int) -> float:
    """Seconds of the model's own ``train`` on the same rows: the libraries are there, nothing is around it."""
    with folder() as where:
        return seconds(Ours(questions, where).fit(questions.train[:size]))


def to_version(questions: Questions, size: int) -> float:
    """Seconds from the annotation that crosses the threshold to the /setup that names the version."""
    with folder() as where, FedBackend(where, questions.labels, size) as backend:
        assert backend.process is not None
        backend.feed(questions.train[: size - 1])
        # The workers have loaded the model's libraries, as they have whenever an annotator is at work.
        settled(backend.process.pid, below=0.15)
        began = time.perf_counter()
        backend.feed(questions.train[size - 1 : size])
        backend.wait_for_version()
        return time.perf_counter() - began


def labels(chosen: Options) -> list[Row]:
    """A row for each size, and one for the growth."""
    questions = Questions.read(intents=5 if chosen.short else None)
    bare_fit(questions, 100)  # imports
    rows: list[Row] = []
    for size in (50,) if chosen.short else SIZES:
        ours, bare = [], []
        for _ in range(chosen.rounds):
            bare.append(bare_fit(questions, size))
            ours.append(to_version(questions, size))
        allowed = FACTOR * statistics.median(bare) + ALLOWANCE_S
        took, fit = statistics.median(ours), statistics.median(bare)
        goal = f"<= {FACTOR} x fit + {ALLOWANCE_S} s"
        note = f"{took - fit:.2f} s more than the fit; allowed in all {allowed:.2f} s"
        rows.append(Row(f"{size:,} labels to new version", took, "s", fit, took / fit, goal, took <= allowed, note))
    return rows


def start(chosen: Options) -> list[Row]:
    """Warm: the same data folder a second time."""
    with folder() as where:
        (where / "data").mkdir()
        took = []
        for _ in range(1 if chosen.short else 1 + max(5, chosen.rounds)):
            with RunningBackend(where / "data") as backend:
                took.append(backend.seconds_to_health)
        return [
            single(
                "start to /health, warm", took[1:] or took, "s", at_most=2.0, note=f"the first start: {took[0]:.2f} s"
            )
        ]


def measured(chosen: Options) -> list[Row]:
    """The parts that are wanted."""
    rows: list[Row] = []
    for name, part in (("labels", labels), ("start", start)):
        if chosen.wants(name):
            rows += part(chosen)
    return rows


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS, rounds=3)
    report("From labels to the new version", measured(chosen), chosen)


if __name__ == "__main__":
    main()
