"""Events: what Label Studio's webhooks say, and the reading of their payloads."""

from ml_backend.events.reading import action_of, parse, parse_annotation, parse_project, parse_task
from ml_backend.events.types import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsWritten,
    Event,
    Ignored,
    Project,
    ProjectChanged,
    ProjectDeleted,
    StartTraining,
    Task,
    TasksCreated,
    TasksDeleted,
    WithoutPayload,
)

__all__ = [
    "Annotation",
    "AnnotationsDeleted",
    "AnnotationsWritten",
    "Event",
    "Ignored",
    "Project",
    "ProjectChanged",
    "ProjectDeleted",
    "StartTraining",
    "Task",
    "TasksCreated",
    "TasksDeleted",
    "WithoutPayload",
    "action_of",
    "parse",
    "parse_annotation",
    "parse_project",
    "parse_task",
]
