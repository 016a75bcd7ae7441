"""The project's eight counters, as Label Studio counts them (fact 7), and what can be derived from a training set."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput
from ml_backend.fields import read_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Counters:
    """The eight absolute counters that every project payload of Label Studio 1.23.2 carries (fact 7)."""

    task_number: int
    finished_task_number: int
    total_predictions_number: int
    total_annotations_number: int
    num_tasks_with_annotations: int
    useful_annotation_number: int
    ground_truth_number: int
    skipped_annotations_number: int

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """The eight names, in the order of the reference page."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_payload(cls, project: Mapping[str, object]) -> Counters | None:
        """Read them from a payload's ``project``.

        None when none of the eight is there (the 2021 examples). Raises `BadInput` when one is not a whole number
        of at least zero, or when only some of the eight are there.
        """
        present = [name for name in cls.names() if project.get(name) is not None]
        if not present:
            return None
        values: dict[str, int] = {}
        for name in cls.names():
            value = read_count(project.get(name), f"project.{name}")
            if value is None:
                raise BadInput(f"project.{name}", "is missing, while other counters are there")
            values[name] = value
        return cls(**values)

    def as_dict(self) -> dict[str, int]:
        """Name to value, in the order of the reference page."""
        return {name: getattr(self, name) for name in self.names()}


@dataclass(frozen=True, slots=True)
class CountedAnnotation:
    """What counting needs to know of one annotation."""

    task: int
    was_cancelled: bool
    ground_truth: bool
    has_result: bool

    @property
    def useful(self) -> bool:
        """Not skipped, not ground truth, result not null; an empty list counts (fact 7)."""
        return self.has_result and not self.was_cancelled and not self.ground_truth


@dataclass(frozen=True, slots=True)
class DerivedCounters:
    """The five counters that the annotations alone determine."""

    total_annotations_number: int = 0
    num_tasks_with_annotations: int = 0
    useful_annotation_number: int = 0
    ground_truth_number: int = 0
    skipped_annotations_number: int = 0

    def differences(self, reported: Counters) -> dict[str, int]:
        """Reported minus derived, for each name that differs: the drift."""
        found: dict[str, int] = {}
        for field in fields(self):
            difference = getattr(reported, field.name) - getattr(self, field.name)
            if difference:
                found[field.name] = difference
        return found


def derive(annotations: Iterable[CountedAnnotation]) -> DerivedCounters:
    """Count a whole set the way Label Studio does: the reference that the incremental counting is tested against."""
    total = useful = ground_truth = skipped = 0
    tasks: set[int] = set()
    for annotation in annotations:
        total += not annotation.was_cancelled
        useful += annotation.useful
        ground_truth += annotation.ground_truth
        skipped += annotation.was_cancelled
        if annotation.useful:
            tasks.add(annotation.task)
    return DerivedCounters(total, len(tasks), useful, ground_truth, skipped)
