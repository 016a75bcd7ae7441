"""For the tests of model authors: a training set from plain lists, and a model trained on it, without any server."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ml_backend.examples import Example, LabelledAnnotation, TrainingSet
from ml_backend.label_config import parse_label_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ml_backend.backend import TrainingBackend

    JsonObject = dict[str, Any]

Model = TypeVar("Model", bound="TrainingBackend")

__all__ = ["ListTrainingSet", "PlainRun", "labelled", "trained"]

_ids = itertools.count(1)


def labelled(
    data: JsonObject,
    *results: list[JsonObject],
    task: int | None = None,
    ground_truth: bool = False,
    fetch: Callable[[JsonObject, str], Path] | None = None,
) -> Example:
    """One task with an annotation for each of ``results`` (Label Studio's lists of regions), oldest first.

    ``fetch(task, url)`` is what `Example.path` asks for media.
    """
    task_id = next(_ids) if task is None else task
    annotations = tuple(
        LabelledAnnotation(next(_ids), result, at, at, ground_truth=ground_truth) for at, result in enumerate(results)
    )
    return Example({"id": task_id, "data": data}, annotations, fetch)


class ListTrainingSet(TrainingSet):
    """A training set in memory. ``changes``: task ids that changed since the parent version; all, if not given."""

    def __init__(self, label_config: str, examples: Sequence[Example], *, changes: Sequence[int] | None = None) -> None:
        self.label_config = label_config
        self.controls = parse_label_config(label_config)
        self._examples = tuple(examples)
        self._changes = frozenset(one.id for one in examples) if changes is None else frozenset(changes)

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    @property
    def changes(self) -> frozenset[int]:
        """Ids of the tasks that changed since the parent version."""
        return self._changes


@dataclass
class PlainRun:
    """A `TrainingRun` that nobody cancels; ``said`` and ``reported`` keep what `progress` and `left_out` were told."""

    directory: Path
    previous: Path | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    cancelled: bool = False
    said: list[tuple[float, str]] = field(default_factory=list)
    reported: dict[int, dict[str, list[JsonObject]]] = field(default_factory=dict)

    def progress(self, fraction: float, message: str = "") -> None:
        """Remember it."""
        self.said.append((fraction, message))

    def left_out(self, control: str, task: int, result: Sequence[JsonObject]) -> None:
        """Remember it."""
        self.reported.setdefault(task, {})[control] = list(result)


def trained(
    model_class: type[Model],
    label_config: str,
    examples: Sequence[Example],
    folder: Path,
    *,
    previous: Path | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Model:
    """Train a model on ``examples``, and load the files it wrote below ``folder`` into a fresh one, as a server would.

    Raises what `train` and `load` raise, `NotTrainable` for instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = PlainRun(folder, previous, dict(params or {}), seed)
    model_class("1", label_config, extra_params=params).train(ListTrainingSet(label_config, examples), run)
    return model_class("1", label_config, extra_params=params).loaded(folder, "test")
