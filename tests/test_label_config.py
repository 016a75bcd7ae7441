"""Label configs: what people annotate with, compared with Label Studio's own parsers; hostile XML is refused."""

from __future__ import annotations

import contextlib
import time
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.errors import BadInput
from ml_backend.label_config import Control, ObjectTag, config_hash, outdated, parse_label_config
from tests.samples.configs import CONFIGS, IMAGE, RECORDED, TEXT


def only(inner: str) -> Control:
    """The single control of a view with these tags."""
    (control,) = parse_label_config(f"<View>{inner}</View>")
    return control


def choices(*labels: str, name: str = "topic", more: str = "") -> tuple[Control, ...]:
    tags = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    return parse_label_config(f'<View>{TEXT}<Choices name="{name}" toName="text" {more}>{tags}</Choices></View>')


def complaint(xml: Any) -> str:
    with pytest.raises(BadInput) as caught:
        parse_label_config(xml)
    assert caught.value.field == "label_config"
    return caught.value.reason


def best_of_three(xml: str) -> float:
    """Seconds of processor time that reading or refusing takes when the machine does least beside it."""
    durations = []
    for _ in range(3):
        start = time.process_time()
        with contextlib.suppress(BadInput):
            parse_label_config(xml)
        durations.append(time.process_time() - start)
    return min(durations)


def ours(xml: str) -> dict[str, Any]:
    return {
        control.name: (
            control.type,
            [one.name for one in control.to],
            [(one.type, one.value.lstrip("$")) for one in control.to],
            list(control.labels),
        )
        for control in parse_label_config(xml)
    }


def theirs(xml: str) -> dict[str, Any]:
    return {
        name: (
            tag["type"],
            tag["to_name"],
            [(one["type"], one.get("value") or one.get("valueList")) for one in tag["inputs"]],
            tag["labels"],
        )
        for name, tag in parse_config(xml).items()
    }


class TestAgainstLabelStudio:
    @pytest.mark.parametrize("inner", CONFIGS.values(), ids=CONFIGS)
    def test_the_controls_are_those_of_label_studios_parser(self, inner: str) -> None:
        xml = f"<View>{inner}</View>"
        assert ours(xml) == theirs(xml)

    @pytest.mark.parametrize("inner", CONFIGS.values(), ids=CONFIGS)
    def test_the_controls_are_those_of_the_sdk(self, inner: str) -> None:
        xml = f"<View>{inner}</View>"
        # The SDK's second parser keeps a label with an empty value, the one that Label Studio itself uses does not.
        sdk = {one.name: (one.tag, [label for label in one.labels if label]) for one in LabelInterface(xml).controls}
        assert {one.name: (one.type, list(one.labels)) for one in parse_label_config(xml)} == sdk

    @pytest.mark.parametrize("xml", sorted(RECORDED), ids=len)
    def test_recorded_configs_too(self, xml: str) -> None:
        assert ours(xml) == theirs(xml)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_any_nesting_of_labels_gives_what_label_studios_parser_gives(self, data: st.DataObject) -> None:
        names = iter(f"n{number}" for number in range(1000))
        value = st.text("abc &<>\"'é", max_size=3)

        def tag(depth: int) -> str:
            kind = data.draw(st.sampled_from(["View", "Choices", "Labels", "Taxonomy", "Choice", "Label", "Choice"]))
            attributes = {}
            if kind in {"Choices", "Labels", "Taxonomy"}:
                attributes = {"name": next(names), "toName": "text"}
            elif kind != "View":
                attributes = data.draw(st.dictionaries(st.sampled_from(["value", "alias", "hint"]), value))
            inner = "".join(tag(depth + 1) for _ in range(data.draw(st.integers(0, 3)))) if depth < 5 else ""
            written = "".join(f" {key}={quoteattr(text)}" for key, text in attributes.items())
            return f"<{kind}{written}>{inner}</{kind}>"

        xml = f"<View>{TEXT}{tag(0)}{tag(0)}</View>"
        assert ours(xml) == theirs(xml)

    @pytest.mark.parametrize(
        "inner",
        ["<Chat name='chat' value='$chat'/>", "<ReactCode name='chat' data='$chat'>x</ReactCode>"],
    )
    def test_a_tag_that_annotates_itself_is_a_control_without_a_to_name(self, inner: str) -> None:
        control = only(inner)
        found = LabelInterface(f"<View>{inner}</View>")
        assert [(one.name, one.tag) for one in found.controls] == [(control.name, control.type)]
        assert [one.name for one in control.to] == ["chat"]
        assert control.to[0].key == "chat"


class TestControls:
    def test_attributes_stay_as_written(self) -> None:
        control = only(
            f"{TEXT}<Rating name='stars' toName='text' perRegion='true' whenLabelValue='a,b' model_path='m.pt'/>"
        )
        assert control.attributes == {
            "name": "stars",
            "toName": "text",
            "perRegion": "true",
            "whenLabelValue": "a,b",
            "model_path": "m.pt",
        }

    def test_predicted_values_lead_to_their_label(self) -> None:
        control = only(
            f"{IMAGE}<Choices name='a' toName='image'><Choice value='Car' predicted_values='jeep, cab,,limousine '/>"
            "<Choice value='Bird' alias='b' predicted_values='heron,jeep'/></Choices>"
        )
        assert control.labels == ("Car", "b")
        assert control.label_map == {"jeep": "Car", "cab": "Car", "limousine": "Car", "heron": "b", "Bird": "b"}

    def test_a_predicted_value_goes_before_a_name_that_an_alias_replaces(self) -> None:
        control = only(
            f"{TEXT}<Choices name='a' toName='text'><Choice value='x' alias='1'/>"
            "<Choice value='y' predicted_values='x'/></Choices>"
        )
        assert control.label_map == {"x": "y"}

    def test_several_objects_are_kept_in_order_and_blanks_around_names_do_not_matter(self) -> None:
        control = only(
            "<Text name='r' value='$right'/><Text name='l' value='$left'/><Pairwise name='a' toName='l, r,l'/>"
        )
        assert [one.key for one in control.to] == ["left", "right"]

    @pytest.mark.parametrize(
        ("attributes", "key"),
        [
            ("value='$text'", "text"),
            ("value='$doc.title'", "doc.title"),
            ("value='$undefined$'", "undefined$"),
            ("valueList='$images'", "images"),
            ("value='Read this'", None),
        ],
    )
    def test_an_object_knows_its_task_data_key(self, attributes: str, key: str | None) -> None:
        control = only(f"<Text name='text' {attributes}/><Rating name='a' toName='text'/>")
        assert control.to[0].key == key

    def test_an_object_without_a_value_is_still_there(self) -> None:
        control = only("<Video name='v'/><Rating name='a' toName='v'/>")
        assert control.to == (ObjectTag("v", "Video", "", {"name": "v"}),)

    def test_comments_and_declarations_do_not_matter(self) -> None:
        xml = f"<?xml version='1.0' encoding='utf-16'?><!-- {{'a': 1}} --><View>{TEXT}<Rating name='a' toName='text'/>"
        (control,) = parse_label_config(f"{xml}</View><!-- <Rating name='b' toName='text'/> -->")
        assert control.name == "a"


class TestBadConfigs:
    @pytest.mark.parametrize(
        "xml",
        [
            "",
            " ",
            "View",
            "<View>",
            "<View></view>",
            "<View/><View/>",
            "<View a='1' a='2'/>",
            "<View>&nbsp;</View>",
            "{}",
        ],
    )
    def test_what_is_not_xml_is_refused(self, xml: str) -> None:
        assert complaint(xml).startswith("is not XML")

    @pytest.mark.parametrize(
        "xml", ["<View>\0</View>", "<View a='\ud800'/>", "<View>\x08</View>", "<View>\ufffe</View>"]
    )
    def test_characters_that_xml_cannot_hold_are_refused(self, xml: str) -> None:
        assert complaint(xml).startswith("is not XML")

    @pytest.mark.parametrize("xml", [None, b"<View/>", 5, [], {}])
    def test_what_is_no_text_is_refused(self, xml: object) -> None:
        assert complaint(xml) == "must be a text"

    @pytest.mark.parametrize(
        "start",
        [
            "<!DOCTYPE View>",
            "<!DOCTYPE View SYSTEM 'http://127.0.0.1:1/x.dtd'>",
            "<!DOCTYPE View [<!ENTITY a 'b'>]>",
            "<!DOCTYPE View [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
            "<!DOCTYPE View [<!ENTITY % a SYSTEM 'http://127.0.0.1:1/x'> %a;]>",
        ],
    )
    def test_document_types_and_entities_are_refused(self, start: str) -> None:
        assert complaint(f"{start}<View/>") == "must not have a document type or entities"

    def test_a_name_that_is_not_there_is_refused(self) -> None:
        reason = complaint("<View><Choices name='a' toName='txet'><Choice value='x'/></Choices></View>")
        assert reason == "has no tag 'txet', which 'a' names in toName"

    def test_depth_is_bounded(self) -> None:
        assert len(parse_label_config("<View>" * 1000 + "</View>" * 1000)) == 0
        assert "deeper" in complaint("<View>" * 1001 + "</View>" * 1001)

    @settings(max_examples=500, deadline=None)
    @given(
        st.text()
        | st.lists(
            st.sampled_from(
                ["<View>", "</View>", TEXT, "<Choices name='a' toName='text'>", "</Choices>", "<Choice value='x'/>"]
            )
            | st.text(max_size=5)
        ).map("".join)
    )
    def test_any_text_gives_controls_or_bad_input(self, xml: str) -> None:
        try:
            controls = parse_label_config(xml)
        except BadInput:
            return
        assert all(control.name for control in controls)

    @pytest.mark.parametrize(
        "xml",
        [
            f"<View>{TEXT}<Labels name='a' toName='text'>" + "<Label value='x'/>" * 100_000 + "</Labels></View>",
            f"<View>{TEXT}<Rating name='a' toName='text'/><!--{'x' * 2_000_000}--></View>",
            f"<View>{TEXT}<Rating name='a' toName='text' hint='{'x' * 2_000_000}'/></View>",
            f"<View>{TEXT}<Rating name='a' toName='{'text,' * 400_000}text'/></View>",
            f"<View>{TEXT}" + "".join(f"<Rating name='a{n}' toName='text'/>" for n in range(50_000)) + "</View>",
            "<View>" + "<a/>" * 500_000 + "</View>",
            "<View>" * 300_000,
            "<" * 2_000_000,
            "<View " + " ".join(f"a{n}=''" for n in range(200_000)) + "/>",
            "<View>" + "&#38;" * 400_000 + "</View>",
        ],
        ids=lambda xml: f"{xml[:60]}…",
    )
    def test_two_megabytes_of_anything_take_less_than_a_second(self, xml: str) -> None:
        assert best_of_three(xml) < 1

    def test_five_thousand_labels_are_quick(self) -> None:
        labels = [f"intent {number}" for number in range(5000)]
        (control,) = choices(*labels)
        assert control.labels == tuple(labels)
        tags = "".join(f"<Choice value='{label}'/>" for label in labels)
        assert best_of_three(f"<View>{TEXT}<Choices name='topic' toName='text'>{tags}</Choices></View>") < 0.2


class TestHash:
    def test_equal_texts_have_equal_hashes_and_others_do_not(self) -> None:
        assert config_hash("<View/>") == config_hash("<View/>")
        assert config_hash("<View/>") != config_hash("<View />")

    def test_it_stays_the_same_over_releases(self) -> None:
        assert config_hash("<View/>") == "22735e1eee21b0ff"

    @given(st.text())
    def test_any_text_has_one(self, text: str) -> None:
        assert len(config_hash(text)) == 16


class TestOutdated:
    def test_the_same_config_fits(self) -> None:
        assert outdated(choices("a", "b"), choices("a", "b")) is None

    def test_more_labels_more_controls_another_order_and_another_key_fit(self) -> None:
        before = choices("a", "b")
        assert outdated(before, choices("c", "b", "a")) is None
        assert outdated(before, before + choices("x", name="other")) is None
        assert outdated((), before) is None
        (control,) = parse_label_config(
            "<View><Text name='text' value='$body'/><Choices name='topic' toName='text'>"
            "<Choice value='a'/><Choice value='b'/></Choices></View>"
        )
        assert outdated(before, (control,)) is None

    def test_a_removed_or_renamed_label_does_not(self) -> None:
        assert outdated(choices("a", "b"), choices("a")) == "'topic' no longer has 'b'"
        assert outdated(choices("a", "b"), choices("a", "B")) == "'topic' no longer has 'b'"

    def test_many_removed_labels_are_counted(self) -> None:
        assert outdated(choices(*"abcdefg"), choices("a")) == "'topic' no longer has 'b', 'c', 'd' and 3 more"

    def test_a_label_that_got_an_alias_is_renamed(self) -> None:
        (after,) = parse_label_config(
            f"<View>{TEXT}<Choices name='topic' toName='text'><Choice value='a' alias='1'/></Choices></View>"
        )
        assert outdated(choices("a"), (after,)) == "'topic' no longer has 'a'"

    def test_a_removed_or_renamed_control_does_not(self) -> None:
        assert outdated(choices("a"), ()) == "the control 'topic' is gone"
        assert outdated(choices("a"), choices("a", name="theme")) == "the control 'topic' is gone"

    def test_another_type_of_control_does_not(self) -> None:
        (after,) = parse_label_config(
            f"<View>{TEXT}<Labels name='topic' toName='text'><Label value='a'/></Labels></View>"
        )
        assert outdated(choices("a"), (after,)) == "'topic' is Labels now, no longer Choices"

    def test_another_object_does_not(self) -> None:
        (after,) = parse_label_config(
            "<View><Image name='text' value='$text'/>"
            "<Choices name='topic' toName='text'><Choice value='a'/></Choices></View>"
        )
        assert outdated(choices("a"), (after,)) == "'topic' no longer annotates the Text 'text'"

    def test_single_choice_after_multiple_does_not_but_the_other_way_round_fits(self) -> None:
        single, multiple = choices("a"), choices("a", more='choice="multiple"')
        assert outdated(multiple, single) == "'topic' takes a single choice now"
        assert outdated(single, multiple) is None
