"""How annotations and tasks lie in Redis: a fixed header that the scripts read, and a body that only Python reads."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.examples import LabelledAnnotation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ml_backend.events import Annotation, Task

Operation = tuple[bytes | str | int, ...]
"""Seven arguments of a script, see `common.lua`."""

SKIPPED, GROUND_TRUTH, HAS_RESULT, BULK_ACCEPTED, FROM_PREDICTION, BORN = 1, 2, 4, 8, 16, 32

_ANNOTATION = struct.Struct(">dddB")
_TASK = struct.Struct(">dd")
_COMPRESS_FROM = 512


def flags_of(annotation: Annotation) -> int:
    """The bits that counting and choosing examples need."""
    return (
        annotation.was_cancelled * SKIPPED
        + annotation.ground_truth * GROUND_TRUTH
        + (annotation.result is not None) * HAS_RESULT
        + annotation.bulk_accepted * BULK_ACCEPTED
        + (annotation.parent_prediction is not None) * FROM_PREDICTION
    )


def annotation_operation(annotation: Annotation, *, born: bool = False) -> Operation:
    """The script's operation that writes it; ``born``: an event says that it was created just now."""
    return (
        "w",
        annotation.id,
        annotation.task,
        annotation.created_at_us or 0,
        annotation.updated_at_us or 0,
        flags_of(annotation) + born * BORN,
        _body([annotation.result, annotation.completed_by]),
    )


def task_operation(task: Task) -> Operation:
    """The script's operation that writes a task with data."""
    return ("k", task.id, task.created_at_us or 0, task.updated_at_us or 0, "", "", _body(task.data))


def only_operation(task: int, annotations: Iterable[int]) -> Operation:
    """The script's operation that says: these annotations are the task's, and no others."""
    return ("o", task, ",".join(map(str, annotations)), "", "", "", "")


def task_of(stored: bytes) -> int:
    """The task under which an annotation is stored."""
    return int(_ANNOTATION.unpack_from(stored)[2])


def unpack_annotation(annotation_id: int, stored: bytes) -> tuple[int, LabelledAnnotation]:
    """(flags, annotation) from what Redis holds."""
    created, updated, _task, flags = _ANNOTATION.unpack_from(stored)
    result, completed_by = _read(stored[_ANNOTATION.size :])
    return flags, LabelledAnnotation(
        id=annotation_id,
        result=result or [],
        created_at_us=int(created),
        updated_at_us=int(updated),
        ground_truth=bool(flags & GROUND_TRUTH),
        from_prediction=bool(flags & FROM_PREDICTION),
        completed_by=completed_by,
    )


def unpack_task(task_id: int, stored: bytes) -> dict[str, Any]:
    """The task as an example shows it: id, data and, in microseconds, when it was created."""
    created, _updated = _TASK.unpack_from(stored)
    return {"id": task_id, "data": _read(stored[_TASK.size :]), "created_at_us": int(created)}


def _body(value: object) -> bytes:
    # Sorted, since an export may give the keys in another order than a webhook: that is no change.
    plain = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(plain) >= _COMPRESS_FROM:
        packed = zlib.compress(plain, 1)
        if len(packed) < len(plain):
            return b"z" + packed
    return b"j" + plain


def _read(body: bytes) -> Any:  # noqa: ANN401 - JSON
    return orjson.loads(zlib.decompress(body[1:]) if body[:1] == b"z" else body[1:])
