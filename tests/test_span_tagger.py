"""The shipped span tagger: labels over texts, where every offset is right and every span is one of whole words."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import wnut17
from benchmarks.banking77 import ListedExamples, PlainRun
from benchmarks.common import Options
from ml_backend import NotTrainable
from ml_backend.errors import RunCancelled
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.scores import score
from model.span_crf import Field
from model.span_tagger import SpanTagger
from model.words import Span, as_code_points, on_words, without_overlaps, words_of

Json = dict[str, Any]

TEXT = '<Text name="text" value="$text"/>'
FAMILY = "👩‍👩‍👧"
PEOPLE = ["Zoë Ångström", "Bob", "Renée", "Ann Lee", "Jörg"]
PLACES = ["São Paulo", "Kyiv", "Rome", "Łódź", "New York"]


def labels(*names: str, name: str = "label", to: str = "text") -> str:
    return (
        f'<Labels name="{name}" toName="{to}">'
        + "".join(f"<Label value={quoteattr(one)}/>" for one in names)
        + "</Labels>"
    )


def config(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


NAMES = config(labels("PER", "LOC"), TEXT)


def region(text: str, quoted: str, label: str, name: str = "label", **value: Any) -> Json:
    start = text.index(quoted)
    inside = {"start": start, "end": start + len(quoted), "text": quoted, "labels": [label], **value}
    return {"from_name": name, "to_name": "text", "type": "labels", "value": inside}


def example(number: int, text: Any, *regions: Json) -> Example:
    return Example({"id": number, "data": {"text": text}}, (LabelledAnnotation(number, list(regions), number, number),))


def sentences() -> list[Example]:
    """An emoji first, so that a place counted in anything but code points is wrong."""
    found = []
    for number, (person, place) in enumerate(itertools.product(PEOPLE, PLACES)):
        text = f"{FAMILY if number % 2 else '😀'} {person} went to {place}, they say."
        found.append(example(number, text, region(text, person, "PER"), region(text, place, "LOC")))
    return [*found, example(99, "nobody went anywhere, they say.")]


def trained(label_config: str, examples: list[Example], seed: int = 0) -> tuple[SpanTagger, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        run = PlainRun(Path(folder), seed)
        metrics = SpanTagger(label_config=label_config).train(ListedExamples(label_config, examples), run)
        model = SpanTagger(label_config=label_config)
        model.load(Path(folder))
        return model, metrics


def found(model: SpanTagger, text: Any) -> list[tuple[str, str]]:
    (answer,) = model.predict([{"id": 1, "data": {"text": text}}])
    regions = answer["result"] if answer else []
    return [(text[one["value"]["start"] : one["value"]["end"]], one["value"]["labels"][0]) for one in regions]


@pytest.fixture(scope="module")
def names() -> SpanTagger:
    return trained(NAMES, sentences())[0]


# --- what a prediction looks like ------------------------------------------------------------------------------------


def test_a_prediction_is_a_region_of_label_studio_with_a_probability_and_a_margin(names: SpanTagger) -> None:
    text = f"{FAMILY} Bob went to Łódź, they say."
    (answer,) = names.predict([{"id": 1, "data": {"text": text}}])
    first, second = answer["result"]
    sure = first.pop("score")
    assert first == region(text, "Bob", "PER")
    assert second["value"] == region(text, "Łódź", "LOC")["value"]
    assert 0.5 < sure <= 1
    assert 0 < answer["score"] <= 1


def test_names_that_were_never_seen_are_found_by_what_stands_around_them(names: SpanTagger) -> None:
    assert found(names, "😀 Ōe Kenzaburō went to Tromsø, they say.") == [("Ōe Kenzaburō", "PER"), ("Tromsø", "LOC")]


def test_a_text_without_spans_has_an_empty_result_and_a_score(names: SpanTagger) -> None:
    (answer,) = names.predict([{"id": 1, "data": {"text": "nobody went anywhere, they say."}}])
    assert answer["result"] == []
    assert isinstance(answer["score"], float)


@pytest.mark.parametrize("value", [None, "", " \n\t", True, ["Bob"], {"a": 1}])
def test_what_is_no_text_is_not_predicted(names: SpanTagger, value: Any) -> None:
    assert names.predict([{"id": 1, "data": {"text": value}}]) == [[]]


def test_many_texts_are_predicted_as_each_of_them_is(names: SpanTagger) -> None:
    texts = [one.value("text") for one in sentences()] + ["", "Bob", "a much longer one " * 30]
    together = names.predict([{"id": 1, "data": {"text": text}} for text in texts])
    alone = [names.predict([{"id": 1, "data": {"text": text}}])[0] for text in texts]
    assert _rounded(together) == _rounded(alone)


def _rounded(answers: list[Any]) -> list[Any]:
    return json.loads(json.dumps(answers), parse_float=lambda text: round(float(text), 4))


def test_a_label_that_the_config_no_longer_has_is_not_predicted(names: SpanTagger) -> None:
    other = names.for_config(config(labels("LOC", "ORG"), TEXT))
    assert found(other, "😀 Bob went to Rome, they say.") == [("Rome", "LOC")]


def test_a_text_whose_results_hold_no_text_gets_none() -> None:
    silent = config(labels("PER", "LOC"), '<Text name="text" value="$text" saveTextResult="no"/>')
    model, _ = trained(silent, sentences())
    (answer,) = model.predict([{"id": 1, "data": {"text": "😀 Bob went to Rome, they say."}}])
    assert set(answer["result"][0]["value"]) == {"start", "end", "labels"}


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_opossums_of_label_studios_own_documentation_train() -> None:
    opossums = (
        '<View><Text name="text" value="$ner" granularity="word"/><Text name="question" value="$ner"/>'
        '<Labels name="answer" toName="text"><Label value="Answer" maxUsage="1" background="red"/></Labels></View>'
    )
    texts = ["Opossums like to be aloft \n\n\n\n\n\n in trees.", "Opossums are opportunistic."]
    tasks = [{"id": number, "data": {"ner": text}} for number, text in enumerate(texts)]
    marked = region(texts[1], "Opossums are op", "Answer", name="answer")
    examples = [
        Example(tasks[0], (LabelledAnnotation(1, [], 1, 1),)),
        Example(tasks[1], (LabelledAnnotation(2, [marked], 2, 2),)),
    ]
    model, _ = trained(opossums, examples)
    (answer,) = model.predict([tasks[1]])
    # Of the last word less than half was marked.
    assert [one["value"]["text"] for one in answer["result"]] == ["Opossums are"]


def test_a_single_marked_example_is_enough() -> None:
    text = "Bob sleeps"
    model, metrics = trained(NAMES, [example(1, text, region(text, "Bob", "PER"))])
    assert found(model, text) == [("Bob", "PER")]
    assert metrics == {}


def test_examples_without_any_span_do_not_train() -> None:
    with pytest.raises(NotTrainable, match="'label': none of 2 examples has a span"):
        trained(NAMES, [example(1, "one"), example(2, "two")])


def test_the_same_seed_gives_the_same_version() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for folder in (one, other):
            SpanTagger(label_config=NAMES).train(ListedExamples(NAMES, sentences()), PlainRun(Path(folder), 5))
        for file in Path(one).iterdir():
            if file.suffix == ".npz":
                with np.load(file) as left, np.load(Path(other) / file.name) as right:
                    assert all(np.array_equal(left[name], right[name]) for name in left.files)
            else:
                assert file.read_bytes() == (Path(other) / file.name).read_bytes()


def test_of_overlapping_spans_the_longest_is_learnt_and_the_others_are_counted() -> None:
    extra = "😀 Ann Lee went to New York, they say."
    examples = [
        *sentences(),
        example(
            100, extra, region(extra, "New York", "LOC"), region(extra, "York", "PER"), region(extra, "New", "PER")
        ),
    ]
    model, metrics = trained(NAMES, examples)
    assert metrics["overlapping_spans"] == 2
    assert ("New York", "LOC") in found(model, extra)


def test_several_controls_are_learnt_each_for_itself() -> None:
    both = config(labels("PER", name="who"), labels("LOC", name="where"), '<Rating name="r" toName="text"/>', TEXT)
    examples = []
    for number, one in enumerate(sentences()[:-1]):
        person, place = (
            {**given, "from_name": name} for given, name in zip(one.results(), ("who", "where"), strict=True)
        )
        examples.append(example(number, one.value("text"), person, place))
    model, metrics = trained(both, examples)
    (answer,) = model.predict([{"id": 1, "data": {"text": "😀 Bob went to Rome, they say."}}])
    assert [(one["from_name"], one["value"]["text"]) for one in answer["result"]] == [("who", "Bob"), ("where", "Rome")]
    assert {"who.cv_span_f1", "where.cv_span_f1"} <= metrics.keys()


def test_an_alias_and_old_names_of_a_label_count_for_it() -> None:
    renamed = config(
        '<Labels name="label" toName="text"><Label value="Person" alias="PER" predicted_values="HUMAN"/></Labels>', TEXT
    )
    text = "Bob met Ann"
    model, _ = trained(renamed, [example(1, text, region(text, "Bob", "HUMAN"), region(text, "Ann", "Person"))])
    assert found(model, text) == [("Bob", "PER"), ("Ann", "PER")]


def test_each_text_is_answered_once_by_a_field_that_was_trained_without_it(tmp_path: Path) -> None:
    run = PlainRun(tmp_path, 0)
    metrics = SpanTagger(label_config=NAMES).train(ListedExamples(NAMES, sentences()), run)
    assert run.reported.keys() == {one.id for one in sentences()}
    regions = [[region for some in run.reported[one.id].values() for region in some] for one in sentences()]
    scored = score(parse_label_config(NAMES), sentences(), regions)
    assert scored is not None
    assert scored.metrics["span_f1"] == pytest.approx(metrics["cv_span_f1"])


def test_a_cancelled_run_stops_in_the_middle_of_learning() -> None:
    class Cancelled(PlainRun):
        def progress(self, fraction: float, message: str = "") -> None:
            if fraction > 0.2:
                raise RunCancelled("enough")

    with tempfile.TemporaryDirectory() as folder, pytest.raises(RunCancelled):
        SpanTagger(label_config=NAMES).train(ListedExamples(NAMES, sentences()), Cancelled(Path(folder), 0))


def test_what_the_version_says_of_itself_is_the_shipped_scorers_f1(names: SpanTagger) -> None:
    examples = sentences()
    answers = [answer["result"] for answer in names.predict([one.task for one in examples])]
    scores = score(parse_label_config(NAMES), examples, answers)
    assert scores is not None
    assert scores.metrics["span_f1"] == 1.0


# --- what is supported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ([labels("A"), '<HyperText name="text" value="$text"/>'], "annotates HyperText"),
        ([labels("A"), '<Text name="text" value="$text" valueType="url"/>'], "annotates Text"),
        ([labels("A"), '<Text name="text" value="$text" encoding="base64"/>'], "not encoded"),
        (['<Labels name="label" toName="text" value="$all"/>', TEXT], "its labels come with the tasks"),
        (['<Choices name="label" toName="text"><Choice value="A"/></Choices>', TEXT], "is Choices, not Labels"),
        ([labels("A").replace("name=", 'perRegion="true" name=', 1), TEXT], "for each region"),
    ],
)
def test_a_config_that_is_not_supported_says_why(tags: list[str], why: str) -> None:
    assert why in (SpanTagger().check(config(*tags)) or "")


# --- files ------------------------------------------------------------------------------------------------------------


def test_serving_needs_neither_crfsuite_nor_scikit_learn(tmp_path: Path) -> None:
    SpanTagger(label_config=NAMES).train(ListedExamples(NAMES, sentences()), PlainRun(tmp_path, 0))
    code = (
        "import sys, pathlib\nfrom model.span_tagger import SpanTagger\n"
        f"model = SpanTagger(label_config={NAMES!r}); model.load(pathlib.Path({str(tmp_path)!r}))\n"
        "assert model.predict([{'id': 1, 'data': {'text': 'Bob went to Rome, they say.'}}])[0]['result']\n"
        "assert not {'pycrfsuite', 'sklearn', 'scipy.optimize'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    SpanTagger(label_config=NAMES).train(ListedExamples(NAMES, sentences()), PlainRun(tmp_path, 0))
    names = json.loads((tmp_path / "span_tagger.json").read_text())
    (tmp_path / "span_tagger.json").write_text(json.dumps({**names, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        SpanTagger(label_config=NAMES).load(tmp_path)


# --- laws -------------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(), max_size=40) | st.text("a1 é\u0301\u200d👩👍🏽🇩漢ก\r\n\ud800'", max_size=20)


@given(ANY_TEXT)
def test_every_character_that_is_not_space_belongs_to_exactly_one_word(text: str) -> None:
    words = words_of(text)
    inside = [place for start, end in words for place in range(start, end)]
    assert inside == sorted(set(inside))
    assert all(text[place].isspace() for place in set(range(len(text))) - set(inside))
    assert all(not text[start:end].isspace() for start, end in words)


@given(ANY_TEXT, st.data())
def test_a_place_counted_in_utf16_units_is_found_by_the_text_it_quotes(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    units = [sum(2 if ord(one) > 0xFFFF else 1 for one in text[:at]) for at in (start, end)]
    expected = (start, end) if start < end else None
    assert as_code_points(text, start, end, text[start:end]) == expected
    back = as_code_points(text, *units, text[start:end])
    if expected is None:
        assert back is None
    else:
        assert back is not None
        assert text[slice(*back)] == text[start:end]
        assert back == expected or text[slice(*units)] == text[start:end]


@given(ANY_TEXT, st.data())
def test_a_span_of_whole_words_keeps_its_place(text: str, data: st.DataObject) -> None:
    words = words_of(text)
    if words:
        first = data.draw(st.integers(0, len(words) - 1))
        last = data.draw(st.integers(first, len(words) - 1))
        assert on_words(Span(words[first][0], words[last][1], "A"), words) == (first, last + 1)


SPANS = st.lists(
    st.builds(
        lambda start, size, label: Span(start, start + size, label),
        *[st.integers(0, 9)] * 1,
        st.integers(1, 5),
        st.sampled_from("AB"),
    )
)


@given(SPANS, st.randoms())
def test_what_is_kept_of_overlapping_spans_does_not_depend_on_their_order(spans: list[Span], random: Any) -> None:
    kept = without_overlaps(spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(kept))
    shuffled = list(spans)
    random.shuffle(shuffled)
    assert without_overlaps(shuffled) == kept
    assert all(any(one.start < k.end and k.start < one.end for k in kept) for one in spans)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_span_is_as_likely_as_all_ways_to_tag_the_text_say(seed: int, length: int) -> None:
    """Against the sum over every sequence of states."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(5, 5))
    for after in (2, 4):
        steps[[before for before in range(5) if before not in {after, after - 1}], after] = -np.inf
    model = Field(("A", "B"), random.normal(scale=2, size=(6, 5)), steps)
    words = [random.integers(0, 6, size=2) for _ in range(length)]
    weighed: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(5), repeat=length):
        if path[0] not in {2, 4}:
            total = sum(model.weights[word].sum(axis=0)[state] for word, state in zip(words, path, strict=True))
            weighed[path] = np.exp(total + sum(steps[one, other] for one, other in itertools.pairwise(path)))
    everything = sum(weighed.values())
    best = max(weighed, key=weighed.__getitem__)
    ((spans, margin),) = model.find([words], frozenset("AB"))
    assert [one.first for one in spans] == [at for at, state in enumerate(best) if state in {1, 3}]
    for one in spans:
        opening = 1 if one.label == "A" else 3
        same = [
            weight
            for path, weight in weighed.items()
            if path[one.first] == opening
            and all(path[at] == opening + 1 for at in range(one.first + 1, one.last))
            and (one.last == length or path[one.last] != opening + 1)
        ]
        assert one.sure == pytest.approx(sum(same) / everything, abs=1e-5)
    assert 0 <= margin <= 1


@settings(max_examples=30)
@given(st.lists(ANY_TEXT, max_size=4))
def test_predicted_spans_lie_on_words_of_any_text(names: SpanTagger, texts: list[str]) -> None:
    for text, answer in zip(texts, names.predict([{"id": 1, "data": {"text": one}} for one in texts]), strict=True):
        starts, ends = {start for start, _ in words_of(text)}, {end for _, end in words_of(text)}
        for one in answer["result"] if answer else []:
            value = one["value"]
            assert value["start"] in starts
            assert value["end"] in ends
            assert value["text"] == text[value["start"] : value["end"]]


def test_wnut17_in_short() -> None:
    rows = wnut17.measure(Options(rounds=1, short=True, as_json=True))
    assert all(row.ours > 0 for row in rows)
