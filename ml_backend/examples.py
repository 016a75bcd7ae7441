"""What a model author's `train` gets: a training set of examples, streamed and re-iterable, and the run around it."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml_backend.errors import MediaError

if TYPE_CHECKING:
    from ml_backend.label_config import Control

JsonObject = dict[str, Any]
Fetch = Callable[[JsonObject, str], Path]
"""Brings the file behind a URL of a task to this machine. Raises `MediaError`."""


@dataclass(frozen=True, slots=True)
class LabelledAnnotation:
    """One annotation of an example. ``result`` is Label Studio's own list of regions, raw."""

    id: int
    result: list[JsonObject]
    created_at_us: int
    updated_at_us: int
    ground_truth: bool = False
    from_prediction: bool = False
    completed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One task with its annotations, oldest first; skipped ones and unchanged bulk-accepted predictions are left out.

    An empty result stays: it says "nothing here", which is a negative.
    """

    task: JsonObject
    annotations: tuple[LabelledAnnotation, ...]
    fetch: Fetch | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> int:
        """The task's id."""
        return int(self.task["id"])

    @property
    def ground_truth(self) -> bool:
        """Whether one of its annotations is marked as ground truth."""
        return any(annotation.ground_truth for annotation in self.annotations)

    @property
    def from_prediction(self) -> bool:
        """Whether all its annotations began as predictions."""
        return bool(self.annotations) and all(annotation.from_prediction for annotation in self.annotations)

    def value(self, key: str) -> Any:  # noqa: ANN401 - task data is whatever the user imported
        """The task data under ``key``: ``text``, ``$text``, nested ``doc.title`` or ``pages[0]``; None if not there.

        ``$undefined$`` means the only key of tasks that were imported as plain lines (Label Studio's own name for it).
        """
        return value_of(self.task, key)

    def path(self, key: str) -> Path:
        """The local file behind the media URL under ``key``, fetched if needed. It stays as long as the run.

        Raises `MediaError`, a `LookupError` whose ``kind`` says why.
        """
        return media_path(self.fetch, self.task, key)

    def results(self, control: str | None = None) -> list[JsonObject]:
        """The regions of all annotations, raw, of one control tag or of all."""
        return [
            region
            for annotation in self.annotations
            for region in annotation.result
            if control is None or region.get("from_name") == control
        ]

    def newest(self, control: str) -> list[JsonObject]:
        """The regions of the annotation that counts: the newest ground truth, else the newest."""
        if not self.annotations:
            return []
        best = max(self.annotations, key=lambda one: (one.ground_truth, one.updated_at_us, one.id))
        return [region for region in best.result if region.get("from_name") == control]

    def majority(self, control: str) -> tuple[str, ...]:
        """The labels most annotations agree on, in the control's own order of writing; ties go to the newest.

        Ground truth, where there is one, decides alone. Labels are those under the region's value key named like its
        type (``choices``, ``labels``, ``rectanglelabels`` …).
        """
        decisive = [one for one in self.annotations if one.ground_truth] or list(self.annotations)
        votes: Counter[tuple[str, ...]] = Counter()
        latest: dict[tuple[str, ...], tuple[int, int]] = {}
        for annotation in decisive:
            labels = tuple(
                label
                for region in annotation.result
                if region.get("from_name") == control
                for label in labels_of(region)
            )
            votes[labels] += 1
            latest[labels] = max(latest.get(labels, (0, 0)), (annotation.updated_at_us, annotation.id))
        if not votes:
            return ()
        return max(votes, key=lambda labels: (votes[labels], latest[labels]))


def labels_of(region: Mapping[str, Any]) -> list[str]:
    """The labels in one region of a result: the list under the value key that its type names; [] when there is none."""
    value = region.get("value")
    kind = region.get("type")
    if not isinstance(value, Mapping) or not isinstance(kind, str):
        return []
    found = value.get("labels" if kind == "labels" else kind)
    if isinstance(found, str):
        return [found]
    return [label for label in found if isinstance(label, str)] if isinstance(found, list) else []


def value_of(task: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - task data is whatever the user imported
    """What stands in ``task["data"]`` under ``key`` (see `Example.value`)."""
    data = task.get("data")
    if not isinstance(data, Mapping):
        return None
    name = key.removeprefix("$")
    if name in data:
        return data[name]
    if name == "undefined$":
        # The key that plain lines are imported under; exports give them another name.
        return data.get("$undefined$", next(iter(data.values())) if len(data) == 1 else None)
    found: Any = data
    for part in name.replace("[", ".").replace("]", "").split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def media_path(fetch: Fetch | None, task: JsonObject, key: str) -> Path:
    """The local file behind the URL in a task's data under ``key``. Raises `MediaError`."""
    url = value_of(task, key)
    if not isinstance(url, str) or not url:
        raise MediaError("not_media", f"the task's data has no URL under {key!r}", url if isinstance(url, str) else "")
    if fetch is None:
        raise MediaError("not_configured", "nothing here fetches media: start the model with ml-backend", url)
    return fetch(task, url)


class TrainingSet(abc.ABC):
    """Sized, re-iterable, streamed: iterate it as often as needed, it never has to fit into memory.

    Held-out examples are not in it.
    """

    controls: tuple[Control, ...]
    """The control tags of the label config."""
    label_config: str
    """The label config, as XML."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Example]: ...

    @property
    @abc.abstractmethod
    def changes(self) -> frozenset[int]:
        """Ids of the tasks whose annotations changed since the parent version was trained; all, without a parent."""

    def control(self, *types: str) -> Control | None:
        """The first control tag of one of these types (``Choices``), or None."""
        return next((control for control in self.controls if control.type in types), None)


class TrainingRun(Protocol):
    """One run of training, as `train` sees it."""

    directory: Path
    """Write the version's files here, and nowhere else."""
    params: Mapping[str, Any]
    """What stands beside ``refit`` in the connection's extra params: the model's own settings."""
    seed: int
    """The same for the same run, so that a repetition gives the same model."""

    @property
    def previous(self) -> Path | None:
        """The verified files of the parent version, to start from; None for a first version.

        Who reads it counts as having begun from them: what the parent was trained on then never scores this version.
        """

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop: cancelled, or its lease is lost. Look at it between steps of long work."""

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far it is, 0 to 1, for the people who watch. Raises `RunEnded` when the run must stop."""

    def left_out(self, control: str, task: int, result: Sequence[JsonObject]) -> None:
        """Report the regions that a model answered about a task which it was trained without, by cross-validation.

        Optional. Versions of small projects, which hold nothing out, are compared by it (from 30 tasks on that both
        reported). Of no use where `previous` was read.
        """
