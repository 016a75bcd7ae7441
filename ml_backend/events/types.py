"""What Label Studio's webhooks say, as typed frozen events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_backend.uids import make_uid

if TYPE_CHECKING:
    from ml_backend.counters import Counters


@dataclass(frozen=True, slots=True)
class Project:
    """The ``project`` of a payload. ``uid`` is Label Studio's own ``<id>.<created_at as whole seconds>``.

    ``created_at_us`` has only whole seconds where the payload named the project by its uid.
    """

    id: int
    created_at_us: int | None = None
    updated_at_us: int | None = None
    title: str | None = None
    label_config: str | None = None
    min_annotations: int | None = None
    counters: Counters | None = None

    @property
    def uid(self) -> str | None:
        """None when the payload has an id alone (`PROJECT_DELETED`, 2021 pages)."""
        if self.created_at_us is None:
            return None
        return make_uid(self.id, self.created_at_us)


@dataclass(frozen=True, slots=True)
class Task:
    """A task as far as a payload carries it; ``data`` is None where only an id came."""

    id: int
    data: dict[str, object] | None = None
    created_at_us: int | None = None
    updated_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation; ``result`` is None for JSON null, an empty list where the annotator found nothing.

    ``bulk_accepted``: created in a list and with a parent prediction, the mark of "Create annotations from predictions"
    (fact 21).
    """

    id: int
    task: int
    result: list[dict[str, object]] | None
    was_cancelled: bool = False
    ground_truth: bool = False
    created_at_us: int | None = None
    updated_at_us: int | None = None
    completed_by: str | None = None
    parent_prediction: int | None = None
    bulk_accepted: bool = False


@dataclass(frozen=True, slots=True)
class AnnotationsWritten:
    """Annotations created or updated; ``tasks`` holds what is known of their tasks, by id."""

    action: str
    project: Project | None
    annotations: tuple[Annotation, ...]
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotationsDeleted:
    """Annotations deleted: ids are all that is sent (fact 5)."""

    action: str
    project: Project | None
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TasksCreated:
    """Tasks created; their annotations, if imported with them, are not in the payload (fact 8).

    ``newest_us`` is the latest ``updated_at`` among them, which dates the payload's counters.
    """

    action: str
    project: Project | None
    count: int
    newest_us: int | None = None


@dataclass(frozen=True, slots=True)
class TasksDeleted:
    """Tasks deleted, and with them annotations that nothing else reports (fact 9)."""

    action: str
    project: Project | None
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProjectChanged:
    """`PROJECT_CREATED` or `PROJECT_UPDATED`."""

    action: str
    project: Project


@dataclass(frozen=True, slots=True)
class ProjectDeleted:
    """`PROJECT_DELETED`: the id is all that is sent (fact 10)."""

    action: str
    project: Project


@dataclass(frozen=True, slots=True)
class StartTraining:
    """A click on *Start Training*, or Label Studio's own counter (fact 12)."""

    action: str
    project: Project


@dataclass(frozen=True, slots=True)
class WithoutPayload:
    """A known action and nothing else: the webhook's "send payload" is off (fact 11). Something changed, somewhere."""

    action: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """An action that is known to be of no use here, or not known at all: an answer, never an error.

    ``project`` is there where the payload named one, since its counters still say something.
    """

    action: str
    reason: str
    project: Project | None = None


Event = (
    AnnotationsWritten
    | AnnotationsDeleted
    | TasksCreated
    | TasksDeleted
    | ProjectChanged
    | ProjectDeleted
    | StartTraining
    | WithoutPayload
    | Ignored
)
