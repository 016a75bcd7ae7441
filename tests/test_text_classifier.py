"""The shipped text classifier: choices over texts, from a handful of examples on, as sure of itself as it may be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import banking77
from benchmarks.common import Options
from ml_backend import NotTrainable
from ml_backend.errors import RunCancelled
from ml_backend.examples import Example, LabelledAnnotation, TrainingSet
from ml_backend.label_config import parse_label_config
from model.calibrated import Answers
from model.text_classifier import TextClassifier
from model.text_ngrams import NGrams, inverse_document_frequency

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TEXT = '<Text name="text" value="$text"/>'
GOOD = ["what a lovely day", "lovely, thank you", "this is wonderful", "wonderful and lovely"]
BAD = ["an awful day", "awful, never again", "this is terrible", "terrible and awful"]


def choices(*labels: str, name: str = "mood", to: str = "text", **attributes: str) -> str:
    written = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    inside = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    return f'<Choices name="{name}" toName="{to}"{written}>{inside}</Choices>'


def config(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


MOODS = config(TEXT, choices("Good", "Bad"))


def example(number: int, data: Any, **given: tuple[str, ...]) -> Example:
    """A task with ``data`` (a text stands for {"text": it}) and one annotation, its choices given by control."""
    regions = [
        {"from_name": name, "to_name": "text", "type": "choices", "value": {"choices": list(labels)}}
        for name, labels in given.items()
        if labels
    ]
    task = {"id": number, "data": data if isinstance(data, dict) else {"text": data}}
    return Example(task, (LabelledAnnotation(number, regions, number, number),))


def moods() -> list[Example]:
    texts = [(text, "Good") for text in GOOD] + [(text, "Bad") for text in BAD]
    return [example(number, text, mood=(label,)) for number, (text, label) in enumerate(texts)]


@dataclass
class Listed(TrainingSet):
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
class Run:
    directory: Path
    seed: int = 7
    previous: Path | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    said: list[float] = field(default_factory=list)
    reported: dict[int, dict[str, list[Any]]] = field(default_factory=dict)

    def progress(self, fraction: float, message: str = "") -> None:
        self.said.append(fraction)

    def left_out(self, control: str, task: int, result: Sequence[Any]) -> None:
        self.reported.setdefault(task, {})[control] = list(result)


def trained(label_config: str, examples: list[Example], *, now: str | None = None) -> TextClassifier:
    """A model trained under ``label_config`` and loaded under ``now``, as another process would."""
    with tempfile.TemporaryDirectory() as folder:
        TextClassifier(label_config=label_config).train(Listed(label_config, examples), Run(Path(folder)))
        model = TextClassifier(label_config=now or label_config)
        model.load(Path(folder))
        return model


def tasks(*texts: Any) -> list[dict[str, Any]]:
    return [{"id": number, "data": {"text": text}} for number, text in enumerate(texts)]


def chosen(prediction: dict[str, Any], control: str = "mood") -> list[str] | None:
    return next((one["value"]["choices"] for one in prediction["result"] if one["from_name"] == control), None)


@pytest.fixture(scope="module")
def mood_model() -> TextClassifier:
    return trained(MOODS, moods())


# --- what a prediction looks like ------------------------------------------------------------------------------------


def test_a_prediction_is_a_region_of_label_studio_with_a_probability_and_a_margin(mood_model: TextClassifier) -> None:
    (prediction,) = mood_model.predict(tasks("a wonderful, lovely day"))
    (region,) = prediction["result"]
    assert {key: region[key] for key in ("from_name", "to_name", "type", "value")} == {
        "from_name": "mood",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["Good"]},
    }
    assert 0.5 < region["score"] <= 1
    assert 0 < prediction["score"] <= 1


def test_a_text_like_none_of_the_examples_has_a_smaller_margin_than_one_like_them(mood_model: TextClassifier) -> None:
    unclear, clear = mood_model.predict(tasks("zzz", "lovely and wonderful"))
    assert unclear["score"] < clear["score"]
    assert unclear["result"][0]["score"] < clear["result"][0]["score"]


def test_two_examples_of_two_labels_are_enough() -> None:
    model = trained(MOODS, [example(1, GOOD[0], mood=("Good",)), example(2, BAD[1], mood=("Bad",))])
    assert [chosen(one) for one in model.predict(tasks(GOOD[0], BAD[1]))] == [["Good"], ["Bad"]]


def test_nothing_to_predict_is_an_empty_list(mood_model: TextClassifier) -> None:
    assert mood_model.predict([]) == []


# --- what can and cannot be learnt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        ([], "no example has a label and a text"),
        ([example(1, "x", mood=())], "no example has a label and a text"),
        ([example(1, "", mood=("Good",)), example(2, None, mood=("Bad",))], "no example has a label and a text"),
        ([example(1, "x", mood=("Good",)), example(2, "y", mood=("Good",))], "all 2 examples are 'Good'"),
        ([example(1, "x", mood=("Good",)), example(2, "y", mood=("Gone",))], "all 1 examples are 'Good'"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_a_reason(
    examples: list[Example], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(NotTrainable, match=reason):
        TextClassifier(label_config=MOODS).train(Listed(MOODS, examples), Run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_any_number_of_labels_needs_examples_with_and_without_one(tmp_path: Path) -> None:
    both = config(TEXT, choices("Good", "Bad", choice="multiple"))
    alike = [example(number, text, mood=("Good",)) for number, text in enumerate(GOOD)]
    with pytest.raises(NotTrainable, match="all 4 examples have the same labels"):
        TextClassifier(label_config=both).train(Listed(both, alike), Run(tmp_path))


def test_an_example_without_an_answer_teaches_nothing_where_one_label_has_to_be_chosen() -> None:
    unanswered = [example(number, text, mood=()) for number, text in enumerate(BAD, start=100)]
    before, after = trained(MOODS, moods()), trained(MOODS, moods() + unanswered)
    assert [chosen(one) for one in before.predict(tasks(*GOOD, *BAD))] == [
        chosen(one) for one in after.predict(tasks(*GOOD, *BAD))
    ]


def test_answers_under_another_name_of_a_label_count_for_the_label() -> None:
    aliased = config(
        TEXT, '<Choices name="mood" toName="text"><Choice value="Good" alias="g"/><Choice value="b"/></Choices>'
    )
    texts = [(text, "Good") for text in GOOD] + [(text, "b") for text in BAD]
    model = trained(aliased, [example(at, text, mood=(label,)) for at, (text, label) in enumerate(texts)])
    assert chosen(model.predict(tasks(GOOD[0]))[0]) == ["g"]


# --- any number of labels ---------------------------------------------------------------------------------------------


TOPICS = config(TEXT, choices("Price", "Taste", "Service", name="topics", choice="multiple"))


def topics() -> list[Example]:
    price = ["far too expensive", "cheap and fair prices", "the price is high", "expensive prices"]
    taste = ["delicious soup", "the soup was salty", "tasty bread", "bread and soup are delicious"]
    neither = ["we came by bus", "it was raining", "a table at the window", "on a monday"]
    rows = [(text, ("Price",)) for text in price] + [(text, ("Taste",)) for text in taste]
    rows += [(f"{one}, {other}", ("Price", "Taste")) for one, other in zip(price, taste, strict=True)]
    rows += [(text, ()) for text in neither]
    return [example(number, text, topics=labels) for number, (text, labels) in enumerate(rows)]


def test_any_number_of_labels_are_predicted_and_an_empty_result_is_a_negative() -> None:
    model = trained(TOPICS, topics())
    asked = tasks(
        "expensive prices", "delicious bread", "delicious soup, expensive prices", "on a monday it was raining"
    )
    predictions = model.predict(asked)
    assert [chosen(one, "topics") for one in predictions] == [["Price"], ["Taste"], ["Price", "Taste"], None]
    assert predictions[3]["result"] == []
    assert all(0 <= one["score"] <= 1 for one in predictions)


def test_a_label_that_every_example_has_is_predicted_for_every_text() -> None:
    always = [example(one.id, one.task["data"], topics=(*one.majority("topics"), "Service")) for one in topics()]
    predictions = trained(TOPICS, always).predict(tasks("expensive prices", "zzz"))
    assert all("Service" in (chosen(one, "topics") or []) for one in predictions)


# --- several controls -------------------------------------------------------------------------------------------------


def test_each_supported_control_is_predicted_and_the_others_are_left_alone() -> None:
    two = config(
        TEXT,
        choices("Good", "Bad"),
        choices("Short", "Long", name="length", choice="single-radio"),
        '<TextArea name="why" toName="text"/>',
        choices("A", "B", name="part", perRegion="true"),
    )
    examples = [
        example(
            one.id,
            one.task["data"],
            mood=one.majority("mood"),
            length=("Long" if one.id % 2 else "Short",),
            part=("A",),
        )
        for one in moods()
    ]
    (prediction,) = trained(two, examples).predict(tasks("a lovely day"))
    assert [region["from_name"] for region in prediction["result"]] == ["mood", "length"]


def test_a_control_that_cannot_be_learnt_yet_does_not_keep_the_others_from_it() -> None:
    two = config(TEXT, choices("Good", "Bad"), choices("Short", "Long", name="length"))
    (prediction,) = trained(two, moods()).predict(tasks("a lovely day"))
    assert [region["from_name"] for region in prediction["result"]] == ["mood"]


def test_the_least_sure_control_gives_the_prediction_its_rank() -> None:
    two = config(TEXT, choices("Good", "Bad"), choices("A", "B", name="noise"))
    examples = [
        example(one.id, one.task["data"], mood=one.majority("mood"), noise=("AB"[one.id % 2],)) for one in moods()
    ]
    both = trained(two, examples).predict(tasks(*GOOD, "zzz"))
    alone = trained(MOODS, moods()).predict(tasks(*GOOD, "zzz"))
    assert all(one["score"] <= other["score"] for one, other in zip(both, alone, strict=True))


def test_controls_may_read_different_texts() -> None:
    two = config(
        '<Text name="title" value="$doc.title"/><HyperText name="body" value="$doc.body"/>',
        choices("Good", "Bad", to="title"),
        choices("Hot", "Cold", name="heat", to="body"),
    )
    examples = [
        example(
            one.id,
            {"doc": {"title": one.task["data"]["text"], "body": "<p>burning</p>" if one.id % 2 else "<b>icy</b>"}},
            mood=one.majority("mood"),
            heat=("Hot" if one.id % 2 else "Cold",),
        )
        for one in moods()
    ]
    asked = [{"data": {"doc": {"title": "lovely, wonderful", "body": "icy"}}}, {"data": {"doc": {"body": "burning"}}}]
    first, second = trained(two, examples).predict(asked)
    assert (chosen(first), chosen(first, "heat")) == (["Good"], ["Cold"])
    assert [region["to_name"] for region in first["result"]] == ["title", "body"]
    assert (chosen(second), chosen(second, "heat")) == (None, ["Hot"])


# --- texts of all kinds -----------------------------------------------------------------------------------------------


def test_markup_of_hypertext_is_not_part_of_its_text() -> None:
    hyper = MOODS.replace("<Text ", "<HyperText ")
    model = trained(hyper, moods())
    marked = "<!-- awful --><style>.awful{}</style><p class='terrible'>lovely &amp; wonderful<script>awful()</script>"
    assert model.predict(tasks(marked)) == model.predict(tasks("lovely & wonderful"))


@pytest.mark.parametrize("evil", ["<", "<script", "<!--", "<style></style", "</script ", "<a "])
def test_markup_that_never_ends_takes_no_longer_than_other_text(evil: str) -> None:
    model = trained(MOODS.replace("<Text ", "<HyperText "), moods())
    began = time.monotonic()
    model.predict(tasks(evil * 100_000))
    assert time.monotonic() - began < 5


def test_paragraphs_are_read_with_their_own_keys() -> None:
    dialogue = config(
        '<Paragraphs name="text" value="$text" nameKey="who" textKey="says"/>',
        choices("Good", "Bad"),
    )
    examples = [
        example(one.id, {"text": [{"who": "Ann", "says": "hello"}, {"who": "Bob", "says": one.task["data"]["text"]}]},
                mood=one.majority("mood"))
        for one in moods()
    ]  # fmt: skip
    model = trained(dialogue, examples)
    good, odd, remote = model.predict(
        tasks(
            [{"who": "Eve", "says": "lovely, wonderful"}],
            ["awful", 3, {"says": None}, {}],
            "https://example.com/dialogue.json",
        )
    )
    assert chosen(good) == ["Good"]
    assert chosen(odd) == ["Bad"]
    assert remote == []


@pytest.mark.parametrize(
    "data", [{}, {"text": None}, {"text": ""}, {"text": " \n\t"}, {"other": "lovely"}, {"text.x": "lovely"}]
)
def test_a_task_without_a_text_gets_nothing_and_the_others_get_theirs(
    data: dict[str, Any], mood_model: TextClassifier
) -> None:
    first, missing, last = mood_model.predict([*tasks(GOOD[0]), {"id": 9, "data": data}, *tasks(BAD[1])])
    assert (chosen(first), missing, chosen(last)) == (["Good"], [], ["Bad"])


def test_a_task_without_data_gets_nothing(mood_model: TextClassifier) -> None:
    assert mood_model.predict([{"id": 1}, {"id": 2, "data": None}, {"id": 3, "data": "lovely"}]) == [[], [], []]


@pytest.mark.parametrize("value", [0, 12, 3.5, True, ["lovely"], {"a": "lovely"}])
def test_values_that_are_not_texts_are_read_as_they_print(value: object, mood_model: TextClassifier) -> None:
    assert mood_model.predict(tasks(value)) == mood_model.predict(tasks(str(value)))


def test_signs_that_belong_to_letters_do_not_cut_words() -> None:
    ngrams = NGrams()
    ngrams.fit(["नमस्ते दुनिया", "สวัสดี", "cafe\u0301 don't", "😀 ok!"])
    assert set(ngrams.words) == {"नमस्ते", "दुनिया", "สวัสดี", "café", "don't", "😀", "ok", "!"}


def test_the_more_labels_there_are_the_fewer_words_are_kept_and_those_are_the_most_frequent() -> None:
    texts = [" ".join(f"word{number}" for number in range(rare)) for rare in range(1, 60)]
    few, many = NGrams(), NGrams()
    few.fit(texts)
    many.fit(texts, labels=1_000_000)
    assert (len(few.words), len(many.words), len(many.pairs)) == (59, 16, 15)
    assert set(many.words) == {f"word{number}" for number in range(16)}


def test_what_only_left_out_texts_have_does_not_count_in_any_way() -> None:
    kept, left_out = ["red and green", "green and blue", "blue"], ["red and yellow", "yellow!"]
    alone, together = NGrams(), NGrams()
    alone.fit(kept)
    counts = together.fit(kept + left_out)
    rows = together.weigh(counts, inverse_document_frequency(counts[: len(kept)]))[len(kept) :]
    expected = alone.transform(left_out)
    for at in range(len(left_out)):
        weights = rows[[at]].data
        assert sorted(weights[weights > 0]) == pytest.approx(sorted(expected[[at]].data), rel=1e-5)


# --- laws -------------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(), max_size=60)


@given(ANY_TEXT)
def test_any_text_gets_a_prediction_unless_it_is_blank(mood_model: TextClassifier, text: str) -> None:
    (prediction,) = mood_model.predict(tasks(text))
    if not text or text.isspace():
        assert prediction == []
    else:
        assert chosen(prediction) in (["Good"], ["Bad"])
        assert 0 <= prediction["score"] <= 1
        assert 0 <= prediction["result"][0]["score"] <= 1


@given(st.lists(ANY_TEXT, max_size=8))
def test_a_task_is_predicted_alone_as_among_others(mood_model: TextClassifier, texts: list[str]) -> None:
    assert mood_model.predict(tasks(*texts)) == [mood_model.predict(tasks(text))[0] for text in texts]


@given(st.lists(ANY_TEXT, min_size=1, max_size=6), st.lists(ANY_TEXT, min_size=2, max_size=6))
def test_a_text_has_the_same_row_alone_as_among_others_to_the_last_bit(known: list[str], texts: list[str]) -> None:
    ngrams = NGrams()
    ngrams.fit(known)
    asked = [*texts, *known, " ".join(texts)]
    together = ngrams.transform(asked)
    for at, text in enumerate(asked):
        alone, row = ngrams.transform([text]), together[[at]]
        assert alone.shape == row.shape
        assert alone.indices.tolist() == row.indices.tolist()
        assert alone.data.tolist() == row.data.tolist()


LABELLED = st.lists(st.tuples(ANY_TEXT, st.sampled_from(["a", "b", "\ud800", "ü"])), min_size=2, max_size=12).filter(
    lambda rows: len({label for text, label in rows if text and not text.isspace()}) > 1
)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(LABELLED.map(lambda rows: [(text, "s" if label == "\ud800" else label) for text, label in rows]), st.randoms())
def test_the_order_of_labels_in_the_config_changes_nothing(rows: list[tuple[str, str]], chance: Any) -> None:
    labels = ["a", "b", "s", "ü", "never used"]
    examples = [example(number, text, mood=(label,)) for number, (text, label) in enumerate(rows)]
    asked = tasks(*(text for text, _ in rows), "something else")
    first = trained(config(TEXT, choices(*labels)), examples).predict(asked)
    chance.shuffle(labels)
    assert trained(config(TEXT, choices(*labels)), examples).predict(asked) == first


@FEW
@given(st.lists(st.tuples(ANY_TEXT, st.sets(st.sampled_from("abc"))), min_size=2, max_size=12))
def test_any_texts_with_any_labels_train_or_are_refused(rows: list[tuple[str, set[str]]]) -> None:
    label_config = config(TEXT, choices("a", "b", "c", choice="multiple"))
    examples = [example(number, text, mood=tuple(sorted(labels))) for number, (text, labels) in enumerate(rows)]
    try:
        model = trained(label_config, examples)
    except NotTrainable:
        told_apart = {frozenset(labels) for text, labels in rows if text and not text.isspace()}
        assert len(told_apart) < 2
    else:
        for prediction in model.predict(tasks("a", *(text for text, _ in rows))):
            assert prediction == [] or 0 <= prediction["score"] <= 1


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_version_that_was_copied_predicts_exactly_the_same(tmp_path: Path) -> None:
    TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), _into(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = TextClassifier(label_config=MOODS), TextClassifier(label_config=MOODS)
    here.load(tmp_path / "here")
    there.load(tmp_path / "there")
    asked = tasks(*GOOD, *BAD, "zzz", "😀")
    assert here.predict(asked) == there.predict(asked)


def test_the_same_examples_and_seed_give_the_same_version(tmp_path: Path) -> None:
    for name in ("one", "two"):
        TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), _into(tmp_path / name))
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_version_holds_nothing_that_could_run_code_when_it_is_read(tmp_path: Path) -> None:
    TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), Run(tmp_path))
    np.savez(tmp_path / "text_classifier.npz", **{"pairs.0": np.array([object()], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        TextClassifier(label_config=MOODS).load(tmp_path)


def test_a_version_of_another_format_is_refused(tmp_path: Path) -> None:
    TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), Run(tmp_path))
    names = tmp_path / "text_classifier.json"
    names.write_text(names.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="train again"):
        TextClassifier(label_config=MOODS).load(tmp_path)


def test_labels_that_the_config_no_longer_has_are_not_predicted() -> None:
    three = config(TEXT, choices("Good", "Bad", "Odd"))
    odd = [example(number, "how odd, how strange", mood=("Odd",)) for number in (50, 51)]
    model = trained(three, moods() + odd)
    asked = tasks("how odd, how strange")
    assert chosen(model.predict(asked)[0]) == ["Odd"]
    assert chosen(model.for_config(MOODS).predict(asked)[0]) in (["Good"], ["Bad"])


def test_controls_that_the_config_no_longer_has_are_not_predicted(mood_model: TextClassifier) -> None:
    other = config(TEXT, choices("Good", "Bad", name="other"))
    assert mood_model.for_config(other).predict(tasks("lovely")) == [[]]


def test_a_text_that_moved_to_another_key_is_found_there(mood_model: TextClassifier) -> None:
    moved = mood_model.for_config(MOODS.replace("$text", "$body"))
    assert chosen(moved.predict([{"data": {"body": GOOD[0]}}])[0]) == ["Good"]


def test_each_task_is_answered_once_by_a_classifier_that_was_trained_without_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    metrics = TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), run)
    said = {task: answers["mood"][0]["value"]["choices"] for task, answers in run.reported.items()}
    assert said.keys() == {one.id for one in moods()}
    right = [said[one.id] == list(one.majority("mood")) for one in moods()]
    assert sum(right) / len(right) == pytest.approx(metrics["cv_accuracy"])


def test_progress_only_rises_and_ends_at_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), run)
    assert run.said == sorted(run.said)
    assert run.said[-1] == 1


def test_a_cancelled_run_stops_at_the_next_step(tmp_path: Path) -> None:
    class Cancelled(Run):
        def progress(self, fraction: float, message: str = "") -> None:
            if fraction > 0.3:
                raise RunCancelled("cancelled")

    with pytest.raises(RunCancelled):
        TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), Cancelled(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _into(directory: Path) -> Run:
    directory.mkdir()
    return Run(directory)


# --- which configs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label_config",
    [
        MOODS,
        config(TEXT, choices("a", "b", choice="single-radio")),
        config(TEXT, choices("a", "b", choice="multiple")),
        MOODS.replace("<Text ", "<HyperText "),
        MOODS.replace("<Text ", "<Paragraphs "),
        config(TEXT, '<Rating name="stars" toName="text"/>', choices("a", "b")),
    ],
)
def test_choices_over_a_text_are_supported(label_config: str) -> None:
    assert TextClassifier().check(label_config) is None


@pytest.mark.parametrize(
    ("label_config", "reason"),
    [
        ("<View/>", "no control tag"),
        (config(TEXT, '<Rating name="stars" toName="text"/>'), "'stars' is Rating, not Choices"),
        (config('<Image name="text" value="$image"/>', choices("a")), "annotates no Text"),
        (config('<Text name="text" value="always this"/>', choices("a")), "annotates no Text"),
        (config('<Text name="text" value="$url" valueType="url"/>', choices("a")), "annotates no Text"),
        (config(TEXT, choices("a", choice="tree")), "has choice='tree'"),
        (config(TEXT, choices("a", perRegion="true")), "for each region"),
        (config(TEXT, choices(value="$options")), "its choices come with the tasks"),
    ],
)
def test_other_configs_are_refused_with_a_reason(label_config: str, reason: str) -> None:
    assert reason in (TextClassifier().check(label_config) or "")


# --- confidence and cost ----------------------------------------------------------------------------------------------


def test_while_labels_wait_for_their_first_example_nothing_is_certain() -> None:
    seen = Answers.one(["a", "a", "b"], ("a", "b"))
    waiting = Answers.one(["a", "a", "b"], ("a", "b", "c"))
    assert (seen.unseen, waiting.unseen) == (0, 0.25)


@pytest.mark.parametrize(("size", "accuracy", "error"), [(1_000, 0.73, 0.08), (10_003, 0.91, 0.03)])
def test_banking77_is_learnt_and_confidence_is_near_accuracy(
    size: int, accuracy: float, error: float, tmp_path: Path
) -> None:
    questions = banking77.Questions.read()
    ours = banking77.Ours(questions, tmp_path)
    ours.fit(questions.train[:size])()
    ours.load()
    measured, off = banking77.quality(ours, questions.test)
    assert measured >= accuracy
    assert off <= error


def test_the_benchmark_runs_in_small() -> None:
    short = Options(rounds=1, short=True, as_json=False)
    rows = banking77.measure(short, banking77.Questions.read(intents=4), sizes=(60,))
    assert rows[0].what == "accuracy from 60 examples"
    assert rows[0].ours > 0.5
    assert {row.unit for row in rows} == {"", "s", "ms", "MB", "tasks/s"}


def test_neither_the_module_nor_serving_a_version_imports_scikit_learn(tmp_path: Path) -> None:
    TextClassifier(label_config=MOODS).train(Listed(MOODS, moods()), Run(tmp_path))
    program = f"""
import sys
from model.text_classifier import TextClassifier
model = TextClassifier(label_config={MOODS!r})
assert "numpy" not in sys.modules, "numpy came with the module"
from pathlib import Path
model.load(Path({str(tmp_path)!r}))
assert model.predict([{{"data": {{"text": "lovely"}}}}])[0]["result"]
assert "sklearn" not in sys.modules, "scikit-learn came with a version"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
