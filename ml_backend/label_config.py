"""A project's label config (Label Studio's XML) as control tags: what can be predicted, and from which task data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ObjectTag:
    """A tag that shows data: ``value`` is the raw attribute (``$text``), ``key`` what it names in task data (``text``)."""

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
    """A tag that people annotate with.

    ``labels`` in the order of the config (choices, labels, taxonomy leaves …), ``attributes`` as written,
    ``label_map`` from a model's own names (``predicted_values``) and aliases to the config's labels,
    ``to`` the object tags it annotates.
    """

    name: str
    type: str
    to: tuple[ObjectTag, ...]
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)


def parse_label_config(xml: str) -> tuple[Control, ...]:
    """The control tags of a label config, in document order.

    Raises `BadInput` (field ``label_config``) when it is not XML, uses entities or a document type,
    or names an object that is not there.
    """
    raise NotImplementedError


def config_hash(xml: str) -> str:
    """A short stable hash of the text, to see that a config changed."""
    raise NotImplementedError


def outdated(before: tuple[Control, ...], after: tuple[Control, ...]) -> str | None:
    """Why a model trained for ``before`` no longer fits ``after``; None while it does.

    Removing or renaming a control or a label does, adding one does not.
    """
    raise NotImplementedError
