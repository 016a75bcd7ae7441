"""A project's label config (Label Studio's XML) as control tags: what can be predicted, and from which task data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ObjectTag:
    """A tag that shows data: ``value`` is the raw attribute (``$text``), ``key`` what it names in task data (``text``).

    ``value`` is ``valueList`` or ``data`` where the tag has that instead, and empty where it has none of them.
    """

    name: str
    type: str
    value: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """The task data key, possibly nested (``doc.title``); None when the value is a constant."""
        return self.value[1:] if self.value.startswith("$") else None


@dataclass(frozen=True, slots=True)
class Control:
    """A tag that people annotate with: any tag with a ``name`` and a ``toName``.

    ``labels`` are what results hold (the ``alias`` where a label has one, else its ``value``), in the order of the
    config and each once; a taxonomy's are the names of all its nodes. They are empty for a control without labels
    (``Rating``, ``TextArea``) and where tasks bring them (``value="$options"``, ``apiUrl``).
    ``attributes`` are as written, ``perRegion`` and the model author's own included.
    ``label_map`` leads from other names of a label to it: its ``predicted_values`` (a model's own names, separated by
    commas) and the ``value`` that an alias replaces.
    ``to`` are the object tags it annotates.
    """

    name: str
    type: str
    to: tuple[ObjectTag, ...]
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)


_LABEL_TAGS = frozenset({"Label", "Choice", "Relation"})
_NOT_CONTROLS = frozenset({"Filter"})
# These annotate themselves, and are controls without a toName too.
_SELF_REFERENCING = {"chat": "ChatMessage", "reactcode": "ReactCode"}
# Far above what a person writes or a taxonomy needs.
_DEEPEST = 1000


def parse_label_config(xml: str) -> tuple[Control, ...]:
    """The control tags of a label config, in document order.

    Raises `BadInput` (field ``label_config``) when it is not XML, uses entities or a document type, is nested deeper
    than 1,000 tags, or names an object that is not there.
    """
    if not isinstance(xml, str):
        raise BadInput("label_config", "must be a text")
    reader = _Reader()
    parser = XMLParser(target=reader, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(xml)
        parser.close()
    except ParseError as error:
        raise BadInput("label_config", f"is not XML: {error}") from None
    except DefusedXmlException:
        raise BadInput("label_config", "must not have a document type or entities") from None
    except ValueError:
        raise BadInput("label_config", "is not XML: it has characters that XML cannot hold") from None
    return reader.controls()


def config_hash(xml: str) -> str:
    """A short stable hash of the text, to see that a config changed."""
    return hashlib.sha256(xml.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def outdated(before: tuple[Control, ...], after: tuple[Control, ...]) -> str | None:
    """Why a model trained for ``before`` no longer fits ``after``; None while it does.

    Removing or renaming a control, a label, or what a control annotates does, adding one does not. Neither does another
    task data key, nor the order.
    """
    now = {control.name: control for control in after}
    for old in before:
        new = now.get(old.name)
        reason = f"the control {old.name!r} is gone" if new is None else _misfit(old, new)
        if reason is not None:
            return reason
    return None


def _misfit(old: Control, new: Control) -> str | None:
    if old.type != new.type:
        return f"{old.name!r} is {new.type} now, no longer {old.type}"
    kept = frozenset(new.labels)
    gone = [label for label in old.labels if label not in kept]
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        return f"{old.name!r} no longer has {', '.join(map(repr, gone[:3]))}{more}"
    objects = {one.name: one.type for one in new.to}
    for one in old.to:
        if objects.get(one.name) != one.type:
            return f"{old.name!r} no longer annotates the {one.type} {one.name!r}"
    if old.attributes.get("choice") == "multiple" and new.attributes.get("choice") != "multiple":
        return f"{old.name!r} takes a single choice now"
    return None


@dataclass(slots=True)
class _Draft:
    """A control tag while its labels and objects are still being read."""

    type: str
    attributes: Mapping[str, str]
    to: list[str]
    labels: dict[str, None] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    predicted: dict[str, str] = field(default_factory=dict)

    def add(self, attributes: Mapping[str, str]) -> None:
        label = attributes.get("alias") or attributes.get("value") or attributes.get("valueList")
        if not label:
            return
        self.labels[label] = None
        value = attributes.get("value")
        if value and value != label:
            self.shown.setdefault(value, label)
        for name in attributes.get("predicted_values", "").split(","):
            if name.strip():
                self.predicted.setdefault(name.strip(), label)


class _Reader:
    """Takes the parser's tags one by one: no tree is built, so neither size nor depth costs more than their reading."""

    def __init__(self) -> None:
        self._drafts: dict[str, _Draft] = {}
        self._tags: dict[str, tuple[str, Mapping[str, str]]] = {}
        # For each open tag the control that a label directly below it belongs to.
        self._owners: list[str | None] = [None]

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An opening tag; called by the parser."""
        if len(self._owners) > _DEEPEST:
            raise BadInput("label_config", f"is nested deeper than {_DEEPEST:,} tags")
        owner = self._owners[-1]
        name = attributes.get("name")
        if name:
            draft = _draft(tag, name, attributes)
            if draft is not None:
                self._drafts[name] = draft
                owner = name
            if draft is None or name in draft.to:
                self._tags[name] = (tag, attributes)
        if tag in _LABEL_TAGS and self._owners[-1] is not None:
            self._drafts[self._owners[-1]].add(attributes)
        self._owners.append(owner)

    def end(self, _tag: str) -> None:
        """A closing tag; called by the parser."""
        self._owners.pop()

    def close(self) -> None:
        """The end of the text; called by the parser."""

    def controls(self) -> tuple[Control, ...]:
        """What was read, with each ``toName`` resolved."""
        objects = {
            name: ObjectTag(
                name=name,
                type=tag,
                value=attributes.get("value") or attributes.get("valueList") or attributes.get("data") or "",
                attributes=attributes,
            )
            for name, (tag, attributes) in self._tags.items()
        }
        found: list[Control] = []
        for name, draft in self._drafts.items():
            for target in draft.to:
                if target not in objects and target not in self._drafts:
                    raise BadInput("label_config", f"has no tag {target!r}, which {name!r} names in toName")
            found.append(
                Control(
                    name=name,
                    type=draft.type,
                    to=tuple(objects[target] for target in draft.to if target in objects),
                    labels=tuple(draft.labels),
                    attributes=draft.attributes,
                    label_map={**draft.shown, **draft.predicted},
                )
            )
        return tuple(found)


def _draft(tag: str, name: str, attributes: Mapping[str, str]) -> _Draft | None:
    to = attributes.get("toName")
    if to and tag not in _NOT_CONTROLS:
        return _Draft(tag, attributes, list(dict.fromkeys(target.strip() for target in to.split(","))))
    if tag.lower() in _SELF_REFERENCING:
        return _Draft(_SELF_REFERENCING[tag.lower()], attributes, [name])
    return None
