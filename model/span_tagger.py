"""SpanTagger: any number of ``Labels`` over ``Text``, each a conditional random field over words.

Spans that overlap within one control tag are not supported: of those that do, the longest is learnt, and how many were
left out stands in the version's metrics. Spans begin and end with words; see `model.words` for what a word is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_backend import Control, Example, NotTrainable
from model.shipped import Shipped
from model.task_text import TaskText

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet
    from model.span_learning import Labelled
    from model.span_version import Head
    from model.words import Span

Json = dict[str, Any]


class SpanTagger(Shipped):
    """Predicts every `Labels` control over a text in the task; leaves other controls alone."""

    preload = ("model.span_version", "model.span_learning", "pycrfsuite", "scipy.optimize")
    control_type = "Labels"
    _heads: Mapping[str, Head] = {}

    @staticmethod
    def why_not(control: Control) -> str | None:
        """Why this control is not supported; None when it is."""
        return _why_not(control)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float]:
        """Train every supported control that has a span; returns cross-validated scores.

        Raises `NotTrainable` when there is no such control.
        """
        # Late here and in load: the web process imports this module and may never serve a version.
        from model import span_version  # noqa: PLC0415
        from model.span_learning import fit  # noqa: PLC0415

        gathered, tasks = _gather(data, run)
        controls = {control.name: control for control in data.controls}
        heads: dict[str, Head] = {}
        metrics: dict[str, float] = {}
        reasons: list[str] = []
        for at, (name, labelled) in enumerate(gathered.items()):
            if (why := labelled.why_not()) is not None:
                reasons.append(f"{name!r}: {why}")
                continue
            features, model, quality, found = fit(labelled, run.seed, partial(_say, run, name, at, len(gathered)))
            if (source := _source(controls[name])) is not None:
                for place, spans in found.items():
                    answer = _regions(controls[name], source, labelled.texts[place], spans)
                    run.left_out(name, tasks[name][place], answer)
            heads[name] = span_version.Head(features, model)
            metrics |= {f"{name}.{key}" if len(gathered) > 1 else key: value for key, value in quality.items()}
        if not heads:
            raise NotTrainable("; ".join(reasons) or self.check(data.label_config) or "there is no control to train")
        span_version.write(run.directory, heads)
        run.progress(1.0, "written")
        return metrics

    def load(self, directory: Path) -> None:
        """Read a version. Raises `OSError`, `KeyError` or `ValueError` when the files are not a version's."""
        from model import span_version  # noqa: PLC0415 - late, see train

        self._heads = span_version.read(directory)

    def predict(self, tasks: list[Json], context: Json | None = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """``{"result", "score"}`` for each task, ``[]`` for one without a text.

        ``score`` is the margin of the least clear word, of all controls: 0 (ask a person) to 1. A region's own
        ``score`` is the probability that it is right: place, length and label.
        """
        answers: list[Any] = [[] for _ in tasks]
        for control in self.controls:
            head, source = self._heads.get(control.name), _source(control)
            if head is None or source is None or _why_not(control) is not None:
                continue
            texts = {place: text for place, task in enumerate(tasks) if (text := _text(source, Example(task, ())))}
            words = [head.features.known(head.features.rows(text)) for text in texts.values()]
            found = head.model.find(words, frozenset(control.labels))
            for (place, text), (spans, margin) in zip(texts.items(), found, strict=True):
                answer = answers[place] or {"result": [], "score": 1.0}
                answer["result"] += _regions(control, source, text, spans)
                answer["score"] = min(answer["score"], margin)
                answers[place] = answer
        return answers


def _why_not(control: Control) -> str | None:
    if control.type != "Labels":
        return f"is {control.type}, not Labels"
    if control.attributes.get("perRegion") == "true":
        return "is asked for each region, not once for each task"
    if not control.labels:
        return "has no Label of its own: its labels come with the tasks"
    if _source(control) is None:
        shown = ", ".join(one.type for one in control.to) or "nothing"
        return f"annotates {shown}: spans are supported in a Text whose value stands, not encoded, in the task data"
    return None


def _source(control: Control) -> TaskText | None:
    """The text that a control annotates.

    Only a plain one: spans of HyperText are paths in a page as the browser builds it, those of Paragraphs in lines.
    """
    source = TaskText.of(control)
    shown = next((one for one in control.to if source is not None and one.name == source.name), None)
    encoded = shown is not None and shown.attributes.get("encoding", "none") != "none"
    return source if source is not None and source.type == "Text" and not encoded else None


def _text(source: TaskText, example: Example) -> str:
    """The text with its words' places as Label Studio shows them; empty when there is no word in it."""
    value = example.value(source.key)
    text = source.read(example) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return "" if text.isspace() else text


def _say(run: TrainingRun, name: str, at: int, count: int, fraction: float) -> None:
    run.progress(0.1 + 0.9 * (at + fraction) / count, f"learning {name!r}")


def _gather(data: TrainingSet, run: TrainingRun) -> tuple[dict[str, Labelled], dict[str, list[int]]]:
    """Stream the examples once: the texts of each supported control with the spans that people marked in them, and the
    ids of their tasks."""
    from model.span_learning import Labelled  # noqa: PLC0415 - late, with numpy

    supported = [control for control in data.controls if _why_not(control) is None]
    gathered = {control.name: Labelled(control.labels) for control in supported}
    tasks: dict[str, list[int]] = {control.name: [] for control in supported}
    for number, example in enumerate(data):
        if number % 500 == 0:
            run.progress(0.1 * number / max(len(data), 1), "reading examples")
        for control in supported:
            source = _source(control)
            if source is not None and example.annotations and (text := _text(source, example)):
                gathered[control.name].add(text, list(_marked(control, source, text, example)))
                tasks[control.name].append(example.id)
    return gathered, tasks


def _marked(control: Control, source: TaskText, text: str, example: Example) -> list[Span]:
    """The spans of the annotation that counts; a region of several labels counts for the first one."""
    from model.words import Span, as_code_points  # noqa: PLC0415 - late, see train

    spans: list[Span] = []
    for region in example.newest(control.name):
        value = region.get("value")
        # One control may mark several texts.
        if region.get("to_name", source.name) != source.name or not isinstance(value, Mapping):
            continue
        given = value.get("labels")
        named = [
            name if name in control.labels else control.label_map.get(str(name))
            for name in (given if isinstance(given, list) else [])
        ]
        label = next((name for name in named if name in control.labels), None)
        start, end, quoted = (value.get(name) for name in ("start", "end", "text"))
        if label is None or not isinstance(start, int) or not isinstance(end, int):
            continue
        place = as_code_points(text, start, end, quoted if isinstance(quoted, str) else None)
        if place is not None:
            spans.append(Span(*place, label))
    return spans


def _regions(control: Control, source: TaskText, text: str, spans: list[Any]) -> list[Json]:
    from model.words import words_of  # noqa: PLC0415 - late, see train

    words = words_of(text) if spans else []
    shown = next(one for one in control.to if one.name == source.name)
    regions = []
    for one in spans:
        start, end = words[one.first][0], words[one.last - 1][1]
        value = {"start": start, "end": end, "text": text[start:end], "labels": [one.label]}
        if shown.attributes.get("saveTextResult") == "no":
            del value["text"]
        to, score = source.name, one.sure
        regions.append({"from_name": control.name, "to_name": to, "type": "labels", "value": value, "score": score})
    return regions
