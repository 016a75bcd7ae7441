"""The shipped text classifier on BANKING77, beside the official example's pipeline and beside scikit-learn's own parts.

Usage: python -m benchmarks.banking77 [--json] [--short] [--rounds N] [--only learning|versions|predicting]
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as SkPipeline
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from benchmarks.common import Options, Row, alternate, compared, folder, options, report
from ml_backend.examples import Example, LabelledAnnotation, TrainingSet
from ml_backend.label_config import parse_label_config
from model.text_classifier import TextClassifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Question = tuple[str, str]
DATA = Path(__file__).parent / "data" / "banking77"
PARTS = ("learning", "versions", "predicting")
GOALS = {1_000: 0.73, 10_003: 0.91}
BINS = 15


@dataclass(frozen=True)
class Questions:
    """``train``, shuffled once for all, ``test`` and the labels of both, sorted."""

    train: list[Question]
    test: list[Question]

    @classmethod
    def read(cls, seed: int = 0, intents: int | None = None) -> Questions:
        """All of them, or those of the first few labels."""
        train, test = (_file(name) for name in ("train", "test"))
        kept = frozenset(sorted({label for _, label in train})[:intents])
        random.Random(seed).shuffle(train)
        return cls([row for row in train if row[1] in kept], [row for row in test if row[1] in kept])

    @property
    def labels(self) -> list[str]:
        return sorted({label for _, label in self.train})


class Ours:
    """The text classifier as a worker trains it: from examples to the files of a version."""

    def __init__(self, questions: Questions, folder: Path, seed: int = 0) -> None:
        choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in questions.labels)
        object_tag, control = '<Text name="text" value="$text"/>', '<Choices name="intent" toName="text">'
        self.config = f"<View>{object_tag}{control}{choices}</Choices></View>"
        self.model = TextClassifier(label_config=self.config)
        self.run = PlainRun(folder, seed)

    def fit(self, rows: list[Question]) -> Callable[[], None]:
        """What is timed: reading the examples, training, calibration, writing the files."""
        examples = ListedExamples(self.config, [_example(number, *row) for number, row in enumerate(rows)])

        def work() -> None:
            self.model.train(examples, self.run)

        return work

    def load(self) -> None:
        self.model.load(self.run.directory)

    @property
    def megabytes(self) -> float:
        return sum(file.stat().st_size for file in self.run.directory.iterdir()) / 1e6

    def guess(self, texts: list[str]) -> tuple[list[str], NDArray[np.float64]]:
        """The label and the confidence for each text."""
        regions = [answer["result"][0] for answer in self.model.predict([{"data": {"text": text}} for text in texts])]
        return [region["value"]["choices"][0] for region in regions], np.array([region["score"] for region in regions])


class Pipeline:
    """A scikit-learn pipeline: from texts in memory to a fitted one in memory, nothing is written."""

    def __init__(self, make: Callable[[], SkPipeline]) -> None:
        self.make = make

    def fit(self, rows: list[Question]) -> Callable[[], None]:
        """What is timed: scikit-learn's own ``fit``."""
        texts, labels = zip(*rows, strict=True)

        def work() -> None:
            self.fitted = self.make().fit(texts, labels)

        return work

    def dump(self, file: Path) -> None:
        skops.io.dump(self.fitted, file)

    def load(self, file: Path) -> None:
        skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))

    def guess(self, texts: list[str]) -> tuple[list[str], NDArray[np.float64]]:
        """The label for each text, and the confidence; zeros when the classifier has none."""
        if not hasattr(self.fitted, "predict_proba"):
            return self.fitted.predict(texts).tolist(), np.zeros(len(texts))
        sure = self.fitted.predict_proba(texts)
        return self.fitted.classes_[sure.argmax(axis=1)].tolist(), sure.max(axis=1)


def official() -> SkPipeline:
    """The parameters of the official scikit-learn example; the code is ours."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 3)), LogisticRegression(C=10))


def own_parts() -> SkPipeline:
    """The nearest to `TextClassifier` that scikit-learn's own parts give, without calibration."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True)
    return make_pipeline(make_union(words, characters), LinearSVC(multi_class="crammer_singer", tol=0.2))


def quality(one: Ours | Pipeline, test: list[Question]) -> tuple[float, float]:
    """Accuracy, and how far confidence is from it (expected calibration error, 15 bins)."""
    labels, sure = one.guess([text for text, _ in test])
    right = np.array([label == guess for (_, label), guess in zip(test, labels, strict=True)])
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    shares = (bins == number for number in range(BINS))
    error = sum(share.mean() * abs(sure[share].mean() - right[share].mean()) for share in shares if share.any())
    return float(right.mean()), float(error)


def measure(chosen: Options, questions: Questions, sizes: tuple[int, ...]) -> list[Row]:
    """The rows of the table; what is trained last, on the largest size, is what loads and predicts.

    Everybody has one thread, whose CPU time counts: what else the machine does is not measured.
    """
    with folder() as where, threadpool_limits(1):
        (where / "version").mkdir()
        ours, peer, parts = Ours(questions, where / "version"), Pipeline(official), Pipeline(own_parts)
        # Everybody's imports, before a clock runs.
        alternate(1, **{name: _fitting(one, questions.train[:300]) for name, one in _named(ours, peer, parts)})
        ours.load()
        rows: list[Row] = []
        for size in sizes:
            if not chosen.wants("learning") and size != sizes[-1]:
                continue
            took = alternate(
                chosen.rounds if chosen.wants("learning") else 1,
                **{name: _fitting(one, questions.train[:size]) for name, one in _named(ours, peer, parts)},
            )
            ours.load()
            if chosen.wants("learning"):
                rows += _learnt(size, took, *(quality(one, questions.test) for one in (ours, peer, parts)))
        if chosen.wants("versions"):
            rows += _versions(chosen.rounds, ours, parts, where / "pipeline.skops")
        if chosen.wants("predicting"):
            texts = [text for text, _ in questions.test]
            for batch in (1, 100) if chosen.short else (1, 100, 10_000):
                rows += _predicting(chosen.rounds, [texts[at % len(texts)] for at in range(batch)], ours, peer, parts)
    return rows


def cpu_seconds(call: Callable[[], object]) -> float:
    """The CPU time of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _named(ours: Ours, peer: Pipeline, parts: Pipeline) -> tuple[tuple[str, Ours | Pipeline], ...]:
    return ("ours", ours), ("peer", peer), ("parts", parts)


def _fitting(one: Ours | Pipeline, rows: list[Question]) -> Callable[[], float]:
    return partial(cpu_seconds, one.fit(rows))


def _learnt(
    size: int,
    took: Mapping[str, list[float]],
    ours: tuple[float, float],
    peer: tuple[float, float],
    parts: tuple[float, float],
) -> list[Row]:
    goal = GOALS.get(size)
    right, error = ours
    return [
        Row(
            f"accuracy from {size:,} examples",
            right,
            "",
            peer[0],
            right / peer[0],
            f">= {goal}" if goal else "",
            right >= goal if goal else None,
            f"scikit-learn's own parts: {parts[0]:.3f}",
        ),
        Row("  error of its confidence (ECE)", error, "", peer[1], error / peer[1]),
        compared("  training", took["ours"], took["peer"], "s", at_most=1),
        compared("  training", took["ours"], took["parts"], "s", note="peer: scikit-learn's own parts, no calibration"),
    ]


def _versions(rounds: int, ours: Ours, parts: Pipeline, file: Path) -> list[Row]:
    parts.dump(file)
    took = alternate(
        rounds, ours=partial(cpu_seconds, ours.load), parts=partial(cpu_seconds, partial(parts.load, file))
    )
    in_ms = {name: [1000 * one for one in some] for name, some in took.items()}
    note = "peer: skops, scikit-learn's own parts"
    size = file.stat().st_size / 1e6
    return [
        compared("loading a version", in_ms["ours"], in_ms["parts"], "ms", note=note),
        Row("size of a version", ours.megabytes, "MB", size, ours.megabytes / size, note=note),
    ]


def _predicting(rounds: int, texts: list[str], ours: Ours, peer: Pipeline, parts: Pipeline) -> list[Row]:
    """A round is as many calls as give 300 tasks or so."""
    calls = max(1, 300 // len(texts))

    def speed(one: Ours | Pipeline) -> float:
        return calls * len(texts) / cpu_seconds(lambda: [one.guess(texts) for _ in range(calls)])

    found = alternate(rounds, **{name: partial(speed, one) for name, one in _named(ours, peer, parts)})
    what = f"predicting, {len(texts):,} tasks a call"
    return [
        compared(what, found["ours"], found["peer"], "tasks/s"),
        compared(what, found["ours"], found["parts"], "tasks/s", note="peer: scikit-learn's own parts, no confidence"),
    ]


@dataclass
class ListedExamples(TrainingSet):
    """A training set from a list."""

    label_config: str
    examples: list[Example]

    def __post_init__(self) -> None:
        self.controls = parse_label_config(self.label_config)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @property
    def changes(self) -> frozenset[int]:
        return frozenset(example.id for example in self.examples)


@dataclass
class PlainRun:
    """A run of training that nobody watches."""

    directory: Path
    seed: int
    previous: Path | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    reported: dict[int, dict[str, list[Any]]] = field(default_factory=dict)

    def progress(self, fraction: float, message: str = "") -> None:
        pass

    def left_out(self, control: str, task: int, result: Sequence[Any]) -> None:
        self.reported.setdefault(task, {})[control] = list(result)


def _example(number: int, text: str, label: str) -> Example:
    region = {"from_name": "intent", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    return Example({"id": number, "data": {"text": text}}, (LabelledAnnotation(number, [region], number, number),))


def _file(name: str) -> list[Question]:
    with gzip.open(DATA / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(io.StringIO(file.read()))]


def main() -> None:
    """Measure and report."""
    chosen = options(__doc__, parts=PARTS, rounds=3)
    questions = Questions.read(intents=10 if chosen.short else None)
    sizes = (300,) if chosen.short else (1_000, len(questions.train))
    report("BANKING77: ours beside the official example's pipeline", measure(chosen, questions, sizes), chosen)


if __name__ == "__main__":
    main()
