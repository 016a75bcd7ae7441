"""The shipped model that runs where none is named: each control tag to the model that supports it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.banking77 import ListedExamples, PlainRun
from ml_backend import NotTrainable
from ml_backend.examples import Example, LabelledAnnotation
from model.auto import AutoModel

MIXED = (
    '<View><Text name="text" value="$text"/>'
    '<Choices name="mood" toName="text"><Choice value="Good"/><Choice value="Bad"/></Choices>'
    '<Labels name="who" toName="text"><Label value="PER"/></Labels>'
    '<Rating name="stars" toName="text"/></View>'
)


def example(number: int, name: str, mood: str, *, marked: bool = True) -> Example:
    text = f"{name} had a {mood.lower()} day"
    regions = [{"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [mood]}}]
    if marked:
        value = {"start": 0, "end": len(name), "text": name, "labels": ["PER"]}
        regions.append({"from_name": "who", "to_name": "text", "type": "labels", "value": value})
    return Example({"id": number, "data": {"text": text}}, (LabelledAnnotation(number, regions, number, number),))


def trained(examples: list[Example]) -> tuple[AutoModel, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        metrics = AutoModel(label_config=MIXED).train(ListedExamples(MIXED, examples), PlainRun(Path(folder), 0))
        model = AutoModel(label_config=MIXED)
        model.load(Path(folder))
        return model, metrics


def days(*, marked: bool = True) -> list[Example]:
    names = ["Ann", "Bob", "Carl", "Dora", "Eve", "Finn"]
    return [example(at, name, "Good" if at % 2 else "Bad", marked=marked) for at, name in enumerate(names)]


def test_each_supported_control_is_predicted_and_the_others_are_left_alone() -> None:
    model, metrics = trained(days())
    (answer,) = model.predict([{"id": 1, "data": {"text": "Gina had a good day"}}])
    said = {one["from_name"]: one["value"] for one in answer["result"]}
    assert said["mood"] == {"choices": ["Good"]}
    assert said["who"] == {"start": 0, "end": 4, "text": "Gina", "labels": ["PER"]}
    assert said.keys() == {"mood", "who"}
    assert {"TextClassifier.cv_accuracy", "SpanTagger.cv_span_f1"} <= metrics.keys()


def test_the_score_is_that_of_the_least_sure_model() -> None:
    model, _ = trained(days())
    tasks = [{"id": 1, "data": {"text": "Gina had a good day"}}]
    (answer,) = model.predict(tasks)
    alone = [one.for_config(MIXED).predict(tasks)[0]["score"] for one in model._loaded]
    assert answer["score"] == min(alone)
    assert len(alone) == 2


def test_a_model_that_cannot_train_yet_does_not_keep_the_other_from_it() -> None:
    model, _ = trained(days(marked=False))
    (answer,) = model.predict([{"id": 1, "data": {"text": "Gina had a good day"}}])
    assert [one["from_name"] for one in answer["result"]] == ["mood"]


def test_when_none_can_train_each_says_why() -> None:
    with pytest.raises(NotTrainable, match=r"'mood': all 1 examples are 'Bad'.*'who': none of 1 examples has a span"):
        trained([example(1, "Ann", "Bad", marked=False)])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("<View/>", "there is no control tag such as Choices"),
        (
            '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"/></View>',
            "'b' is BrushLabels, and the shipped models predict",
        ),
        (
            '<View><HyperText name="t" value="$t"/><Labels name="l" toName="t"><Label value="A"/></Labels></View>',
            "'l' annotates HyperText: spans are supported in a Text",
        ),
        (
            '<View><Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="A"/></Choices></View>',
            "'c' annotates no Text",
        ),
    ],
)
def test_a_config_that_no_shipped_model_supports_says_why_for_each_control(config: str, reason: str) -> None:
    assert reason in (AutoModel().check(config) or "")


def test_one_supported_control_is_enough() -> None:
    assert AutoModel().check(MIXED) is None


def test_the_files_of_the_version_before_are_asked_for_by_none_of_the_models(tmp_path: Path) -> None:
    class Asking(PlainRun):
        previous = property(lambda _: pytest.fail("whoever asks counts as having begun from them"))  # type: ignore[assignment]

        def __init__(self, directory: Path) -> None:
            self.directory, self.seed, self.params, self.reported = directory, 0, {}, {}

    AutoModel(label_config=MIXED).train(ListedExamples(MIXED, days()), Asking(tmp_path))


def test_every_model_reports_what_it_answered_about_tasks_that_it_left_out(tmp_path: Path) -> None:
    run = PlainRun(tmp_path, 0)
    AutoModel(label_config=MIXED).train(ListedExamples(MIXED, days()), run)
    assert run.reported.keys() == {one.id for one in days()}
    assert {name for answers in run.reported.values() for name in answers} == {"mood", "who"}
