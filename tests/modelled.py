"""A model of Label Studio: what its database holds, what each action sends, and what it changes without a word.

It sends payloads as the recordings show them, and counts as fact 7 says. Ids are used again as SQLite does it (fact 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_backend.counters import CountedAnnotation, Counters, derive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Payload = dict[str, Any]

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="sentiment" toName="text">'
    '<Choice value="Positive"/><Choice value="Negative"/></Choices></View>'
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ModelTask:
    """A row of its table of tasks."""

    id: int
    text: str
    created_us: int
    updated_us: int


@dataclass(frozen=True)
class ModelAnnotation:
    """A row of its table of annotations. ``updated_by`` is None as long as no person saved it."""

    id: int
    task: int
    label: str | None
    created_us: int
    updated_us: int
    cancelled: bool = False
    ground_truth: bool = False
    prediction: int | None = None
    updated_by: int | None = 1

    @property
    def result(self) -> list[Payload] | None:
        """Null where there is no label at all, an empty list for an empty label."""
        if self.label is None:
            return None
        if not self.label:
            return []
        value = {"choices": [self.label]}
        return [{"from_name": "sentiment", "to_name": "text", "type": "choices", "value": value}]

    @property
    def bulk_accepted(self) -> bool:
        """A prediction that nobody touched since it was accepted in bulk."""
        return self.prediction is not None and self.updated_by is None

    @property
    def payload(self) -> Payload:
        """As a webhook carries it."""
        return {
            "id": self.id,
            "result": self.result,
            "was_cancelled": self.cancelled,
            "ground_truth": self.ground_truth,
            "created_at": iso(self.created_us),
            "updated_at": iso(self.updated_us),
            "task": self.task,
            "completed_by": 1,
            "updated_by": self.updated_by,
            "parent_prediction": self.prediction,
        }


def iso(moment_us: int) -> str:
    """A time as Label Studio writes it."""
    return (_EPOCH + timedelta(microseconds=moment_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


class ModelLabelStudio:
    """One project of it. Every action returns the webhook payloads that it sends, in order."""

    def __init__(
        self,
        project_id: int = 2,
        created_us: int = 1_795_333_883_096_964,
        *,
        task_ids_come_back: bool = True,
        step_us: int = 1_000,
    ) -> None:
        self.project_id = project_id
        self.created_us = created_us
        self.updated_us = created_us
        self.now_us = created_us + 1_000_000
        self.title = "Text clf"
        self.min_annotations = 0
        self.tasks: dict[int, ModelTask] = {}
        self.annotations: dict[int, ModelAnnotation] = {}
        self._last_task = 0
        self._step_us = step_us
        self._task_ids_come_back = task_ids_come_back

    @property
    def uid(self) -> str:
        """As `/setup` names the project."""
        return f"{self.project_id}.{self.created_us // 1_000_000}"

    def annotations_of(self, task: int) -> list[ModelAnnotation]:
        """All of a task's annotations, by id."""
        return [one for _, one in sorted(self.annotations.items()) if one.task == task]

    def counters(self) -> Counters:
        """All eight, as its API reports them."""
        derived = derive(
            CountedAnnotation(one.task, one.cancelled, one.ground_truth, one.label is not None)
            for one in self.annotations.values()
        )
        return Counters(
            task_number=len(self.tasks),
            finished_task_number=len({one.task for one in self.annotations.values()}),
            total_predictions_number=0,
            total_annotations_number=derived.total_annotations_number,
            num_tasks_with_annotations=derived.num_tasks_with_annotations,
            useful_annotation_number=derived.useful_annotation_number,
            ground_truth_number=derived.ground_truth_number,
            skipped_annotations_number=derived.skipped_annotations_number,
        )

    def pass_time(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.now_us += int(seconds * 1e6)

    # --- what people do -----------------------------------------------------------------------------------------------

    def import_tasks(self, labels: Sequence[Sequence[str]]) -> list[Payload]:
        """Tasks with the annotations that come with them, which are ground truth and fire nothing (fact 8)."""
        made = []
        for own in labels:
            task = self._new_task()
            made.append(task)
            for label in own:
                self._put(self._new_annotation(task.id, label, ground_truth=True, updated_by=None))
        return [self._event("TASKS_CREATED", tasks=[self.task_payload(task.id) for task in made])]

    def create(
        self,
        task: int,
        label: str | None,
        *,
        cancelled: bool = False,
        ground_truth: bool = False,
        prediction: int | None = None,
    ) -> list[Payload]:
        """Submit, or Skip."""
        made = self._new_annotation(
            task, label, cancelled=cancelled, ground_truth=ground_truth, prediction=prediction, updated_by=1
        )
        self._put(made)
        if ground_truth:
            self._only_ground_truth(made)
        return [*self._counted(made), self._annotation_event("ANNOTATION_CREATED", made.id)]

    def accept_predictions(self, tasks: Sequence[int], label: str) -> list[Payload]:
        """ "Create annotations from predictions" (facts 4 and 21): lists under singular keys."""
        made = [self._new_annotation(task, label, prediction=100 + task, updated_by=None) for task in tasks]
        for one in made:
            self._put(one)
        return [
            self._event(
                "ANNOTATIONS_CREATED",
                annotation=[one.payload for one in made],
                task=[self.task_payload(one.task) for one in made],
            )
        ]

    def delete_predictions(self) -> list[Payload]:
        """All of them, by hand or with their version: who began as one names it no more, and no date moves."""
        for one in self.annotations.values():
            self.annotations[one.id] = replace(one, prediction=None)
        return []

    def delete_person(self) -> list[Payload]:
        """The only one: what they saved was saved by nobody, and no date moves."""
        for one in self.annotations.values():
            self.annotations[one.id] = replace(one, updated_by=None)
        return []

    def update(self, annotation: int, **changes: Any) -> list[Payload]:
        """Update, Skip, undo a skip, or set or remove the ground truth mark (fact 18)."""
        old = self.annotations[annotation]
        new = replace(old, updated_us=self._tick(), updated_by=1, **changes)
        self._put(new)
        if new.ground_truth and "ground_truth" in changes:
            self._only_ground_truth(new)
        return [*self._counted(new), self._annotation_event("ANNOTATION_UPDATED", annotation)]

    def delete(self, annotations: Sequence[int]) -> list[Payload]:
        """Only ids are sent (fact 5)."""
        self._tick()
        for one in annotations:
            gone = self.annotations.pop(one)
            self._touch_task(gone.task)
        return [self._event("ANNOTATIONS_DELETED", annotations=[{"id": one} for one in annotations])]

    def delete_tasks(self, tasks: Sequence[int]) -> list[Payload]:
        """Their annotations go with them; only the tasks are reported."""
        self._tick()
        for task in tasks:
            self._drop_task(task)
        return [self._event("TASKS_DELETED", tasks=[{"id": one} for one in tasks])]

    def delete_everything(self) -> list[Payload]:
        """All tasks at once: nothing is sent (fact 9)."""
        self._tick()
        for task in list(self.tasks):
            self._drop_task(task)
        return []

    def remove_duplicates(self, kept: int, removed: int) -> list[Payload]:
        """Annotations move to the task that is kept; their dates stay and only the deletion is reported (fact 23)."""
        self._tick()
        for one in self.annotations_of(removed):
            self.annotations[one.id] = replace(one, task=kept)
        del self.tasks[removed]
        return [self._event("TASKS_DELETED", tasks=[{"id": removed}])]

    def edit_task(self, task: int, text: str) -> list[Payload]:
        """No event; the next one about an annotation of the task carries the new text."""
        self.tasks[task] = replace(self.tasks[task], text=text, updated_us=self._tick())
        return []

    def change_project(self, title: str, min_annotations: int) -> list[Payload]:
        """`PROJECT_UPDATED`."""
        self.title = title
        self.min_annotations = min_annotations
        self.updated_us = self._tick()
        return [self._event("PROJECT_UPDATED")]

    def click(self) -> list[Payload]:
        """*Start Training*."""
        self._tick()
        return [self._event("START_TRAINING")]

    # --- what it sends ------------------------------------------------------------------------------------------------

    def project_payload(self) -> Payload:
        """The ``project`` of every payload."""
        return {
            "id": self.project_id,
            "title": self.title,
            "label_config": CONFIG,
            "min_annotations_to_start_training": self.min_annotations,
            "created_at": iso(self.created_us),
            "updated_at": iso(self.updated_us),
            **self.counters().as_dict(),
        }

    def task_payload(self, task: int) -> Payload:
        """A task as payloads and the API have it."""
        one = self.tasks[task]
        return {
            "id": one.id,
            "data": {"text": one.text},
            "created_at": iso(one.created_us),
            "updated_at": iso(one.updated_us),
        }

    def _counted(self, saved: ModelAnnotation) -> list[Payload]:
        """Label Studio's own `START_TRAINING`: from inside the save, before the annotation's own event (fact 12)."""
        due = self.min_annotations and not saved.ground_truth and len(self.annotations) % self.min_annotations == 0
        return [self._event("START_TRAINING")] if due else []

    def _annotation_event(self, action: str, annotation: int) -> Payload:
        one = self.annotations[annotation]
        return self._event(action, annotation=one.payload, task=self.task_payload(one.task))

    def _event(self, action: str, **parts: Any) -> Payload:
        return {"action": action, "project": self.project_payload(), **parts}

    # --- its tables ---------------------------------------------------------------------------------------------------

    def _tick(self) -> int:
        self.now_us += self._step_us
        return self.now_us

    def _new_task(self) -> ModelTask:
        now = self._tick()
        last = max(self.tasks, default=0) if self._task_ids_come_back else self._last_task
        self._last_task = last + 1
        made = ModelTask(last + 1, f"text {now}", now, now)
        self.tasks[made.id] = made
        return made

    def _new_annotation(self, task: int, label: str | None, **more: Any) -> ModelAnnotation:
        now = self._tick()
        made = ModelAnnotation(max(self.annotations, default=0) + 1, task, label, now, now + 22, **more)
        self.annotations[made.id] = made
        return made

    def _put(self, annotation: ModelAnnotation) -> None:
        self.annotations[annotation.id] = annotation
        self._touch_task(annotation.task)

    def _touch_task(self, task: int) -> None:
        if task in self.tasks:
            self.tasks[task] = replace(self.tasks[task], updated_us=self.now_us)

    def _only_ground_truth(self, chosen: ModelAnnotation) -> None:
        """It takes the mark from its siblings, whose ``updated_at`` stays (fact 23)."""
        for one in self.annotations_of(chosen.task):
            if one.id != chosen.id and one.ground_truth:
                self.annotations[one.id] = replace(one, ground_truth=False)

    def _drop_task(self, task: int) -> None:
        for one in self.annotations_of(task):
            del self.annotations[one.id]
        del self.tasks[task]


def labelled_tasks(studio: ModelLabelStudio, after: int, limit: int) -> Iterable[int]:
    """Ids of the tasks that have annotations, greater than ``after``, as its API pages them."""
    return sorted({one.task for one in studio.annotations.values() if one.task > after})[:limit]
