"""TextClassifier: any number of ``Choices`` over ``Text``, ``HyperText`` or ``Paragraphs``, with calibrated confidence.

N-grams (`model.text_ngrams`) and linear support vector machines (`model.calibrated`): useful from a handful of examples
on, 10,000 train in about two seconds, and a version is a file of names and one of arrays that load in milliseconds.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_backend import Control, Example, NotTrainable
from model.shipped import Shipped
from model.task_text import TaskText

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scipy.sparse import csr_array

    from ml_backend import TrainingRun, TrainingSet
    from model.calibrated import Answers, Calibrated
    from model.text_ngrams import NGrams
    from model.text_version import Head

Json = dict[str, Any]

_CHANCE = 0.2
_MODES = frozenset({"single", "single-radio", "multiple"})


@dataclass(slots=True)
class _Gathered:
    """The examples of one control: rows of its source's texts, and the labels of the config that people gave them."""

    control: Control
    source: TaskText
    tasks: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    given: list[tuple[str, ...]] = field(default_factory=list)
    current: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.current = frozenset(self.control.labels)

    @property
    def multiple(self) -> bool:
        return self.control.attributes.get("choice") == "multiple"

    def add(self, row: int, example: Example) -> None:
        named = (
            label if label in self.current else self.control.label_map.get(label)
            for label in example.majority(self.control.name)
        )
        labels = tuple(label for label in named if label in self.current)
        # Nothing chosen is an answer where any number may be chosen, and none where one has to be.
        if labels or (self.multiple and example.annotations):
            self.tasks.append(example.id)
            self.rows.append(row)
            self.given.append(labels)

    def answers(self) -> Answers:
        from model.calibrated import Answers  # noqa: PLC0415 - late, with numpy

        if self.multiple:
            return Answers.several([frozenset(labels) for labels in self.given])
        return Answers.one([labels[0] for labels in self.given], self.control.labels)


class TextClassifier(Shipped):
    """Predicts every `Choices` control, single or multiple, over a text in the task; leaves other controls alone."""

    preload = ("model.text_version", "scipy.optimize", "sklearn.svm")
    control_type = "Choices"
    _vocabularies: Sequence[NGrams] = ()
    _heads: Mapping[str, Head] = {}

    @staticmethod
    def why_not(control: Control) -> str | None:
        """Why this control is not supported; None when it is."""
        return _why_not(control)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float]:
        """Train every supported control that has examples of two kinds; returns cross-validated scores.

        Raises `NotTrainable` when there is no such control.
        """
        # Late here and in load: the web process imports this module and may never serve a version.
        from model import text_version  # noqa: PLC0415
        from model.calibrated import fit  # noqa: PLC0415
        from model.text_ngrams import NGrams  # noqa: PLC0415

        gathered, texts = _gather(data, run)
        most_labels = max((len(one.control.labels) for one in gathered), default=1)
        counted: dict[TaskText, tuple[NGrams, csr_array]] = {}
        heads: dict[str, Head] = {}
        metrics: dict[str, float] = {}
        reasons: list[str] = []
        for at, one in enumerate(gathered):
            name, answers = one.control.name, one.answers()
            if (why := answers.why_not()) is not None:
                reasons.append(f"{name!r}: {why}")
                continue
            say = partial(_say, run, f"learning {name!r}", at / len(gathered), 1 / len(gathered))
            say(0.0)
            if one.source not in counted:
                ngrams = NGrams()
                counted[one.source] = ngrams, ngrams.fit(texts[one.source], most_labels)
            ngrams, counts = counted[one.source]
            classifier, quality, said = fit(ngrams, counts[one.rows], answers, run.seed, say)
            for row, labels in said.items():
                run.left_out(name, one.tasks[row], _regions(name, one.source.name, labels))
            heads[name] = text_version.Head(list(counted).index(one.source), classifier)
            metrics |= {f"{name}.{key}" if len(gathered) > 1 else key: value for key, value in quality.items()}
        if not heads:
            raise NotTrainable("; ".join(reasons) or self.check(data.label_config) or "there is no control to train")
        text_version.write(run.directory, [ngrams for ngrams, _ in counted.values()], heads)
        run.progress(1.0, "written")
        return metrics

    def load(self, directory: Path) -> None:
        """Read a version. Raises `OSError`, `KeyError` or `ValueError` when the files are not a version's."""
        from model import text_version  # noqa: PLC0415 - late, see train

        self._vocabularies, self._heads = text_version.read(directory)

    def predict(self, tasks: list[Json], context: Json | None = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """``{"result", "score"}`` for each task, ``[]`` for one without a text.

        ``score`` is the task's rank, 0 (ask a person) to 1: the margin by which the label was chosen, the smallest one
        of several controls, and a sixth of chance. A region's own ``score`` is the probability that it is right.
        """
        answers: list[Any] = [[] for _ in tasks]
        examples = [Example(task, ()) for task in tasks]
        read: dict[tuple[TaskText, int], tuple[list[int], Any]] = {}
        said: dict[int, str] = {}
        for control in self.controls:
            head, source = self._heads.get(control.name), TaskText.of(control)
            if head is None or source is None or _why_not(control) is not None:
                continue
            if (source, head.ngrams) not in read:
                texts = [source.read(example) for example in examples]
                places = [place for place, text in enumerate(texts) if text and not text.isspace()]
                rows = self._vocabularies[head.ngrams].transform([texts[place] for place in places]) if places else None
                read[source, head.ngrams] = places, rows
                said |= {place: texts[place] or "" for place in places if place not in said}
            places, rows = read[source, head.ngrams]
            if places:
                _answer(answers, places, control, source, head.classifier, rows)
        for place, text in said.items():
            if answers[place]:
                answers[place]["score"] = _rank(answers[place]["score"], text)
        return answers


def _rank(margin: float, text: str) -> float:
    """The margin, and for each text some chance that is always the same.

    Until the next training many of the smallest margins are those of texts that are much alike: labelling all of them
    teaches little more than labelling one. On BANKING77 chance saves 3 labels in 100, and the worst case more.
    """
    words = " ".join(text.split())
    chance = zlib.crc32(words.encode("utf-8", "surrogatepass")) / 2**32
    return round((margin + _CHANCE * chance) / (1 + _CHANCE), 6)


def _why_not(control: Control) -> str | None:
    if control.type != "Choices":
        return f"is {control.type}, not Choices"
    if control.attributes.get("choice", "single") not in _MODES:
        return f"has choice={control.attributes['choice']!r}; single, single-radio and multiple are supported"
    if "true" in (control.attributes.get("perRegion"), control.attributes.get("perItem")):
        return "is asked for each region or item, not once for each task"
    if not control.labels:
        return "has no Choice of its own: its choices come with the tasks"
    if TaskText.of(control) is None:
        return "annotates no Text, HyperText or Paragraphs whose value stands in the task data"
    return None


def _say(run: TrainingRun, message: str, begin: float, share: float, fraction: float) -> None:
    run.progress(0.1 + 0.9 * (begin + share * fraction), message)


def _gather(data: TrainingSet, run: TrainingRun) -> tuple[list[_Gathered], dict[TaskText, list[str]]]:
    """Stream the examples once: the answers of each supported control, and the texts they are about."""
    gathered = [
        _Gathered(control, source)
        for control in data.controls
        if _why_not(control) is None and (source := TaskText.of(control)) is not None
    ]
    texts: dict[TaskText, list[str]] = {one.source: [] for one in gathered}
    for number, example in enumerate(data):
        if number % 500 == 0:
            run.progress(0.1 * number / max(len(data), 1), "reading examples")
        for source, lines in texts.items():
            text = source.read(example)
            if not text or text.isspace():
                continue
            for one in gathered:
                if one.source == source:
                    one.add(len(lines), example)
            lines.append(text)
    return gathered, texts


def _answer(
    answers: list[Any], places: list[int], control: Control, source: TaskText, classifier: Calibrated, rows: csr_array
) -> None:
    """Add one control's regions to the answers in ``places``, and let the least sure control give the score."""
    current = frozenset(control.labels)
    kept = [at for at, label in enumerate(classifier.labels) if label in current]
    if not kept or (classifier.multiple and control.attributes.get("choice") != "multiple"):
        return
    chosen, sure, margins = classifier.choose(rows, kept)
    name, to = control.name, source.name
    for place, labels, score, margin in zip(places, chosen, sure, margins, strict=True):
        answer = answers[place] or {"result": [], "score": 1.0}
        answer["result"] += [region | {"score": score} for region in _regions(name, to, labels)]
        answer["score"] = min(answer["score"], margin)
        answers[place] = answer


def _regions(name: str, to: str, labels: list[str]) -> list[Json]:
    return [{"from_name": name, "to_name": to, "type": "choices", "value": {"choices": labels}}] if labels else []
