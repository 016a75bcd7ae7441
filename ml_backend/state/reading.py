"""The training set as a run reads it: a moment in its history, and its tasks streamed in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ml_backend.redis_errors import answering
from ml_backend.state.packing import BULK_ACCEPTED, HAS_RESULT, SKIPPED, task_of, unpack_annotation, unpack_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis

    from ml_backend.examples import LabelledAnnotation
    from ml_backend.state.keys import Keys

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The training set at one moment. ``seq`` tells later which changes it held; ``changed`` are annotation ids."""

    uid: str
    seq: int
    label_config: str
    extra_params: str
    changed: frozenset[int]


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task with its annotations as they lie in Redis. ``left_out`` counts bulk-accepted ones that were not taken."""

    task: dict[str, Any]
    annotations: tuple[LabelledAnnotation, ...]
    left_out: int = 0


def hash_pages(client: redis.Redis, key: str, size: int = 1000) -> Iterator[dict[bytes, bytes]]:
    """A hash in pages of about that size; what is changed meanwhile may come twice."""
    cursor = 0
    while True:
        with answering():
            cursor, page = cast("tuple[int, dict[bytes, bytes]]", client.hscan(key, cursor, count=size))
        yield page
        if cursor == 0:
            return


def stored_tasks(client: redis.Redis, keys: Keys, uid: str, *, bulk_accepted: bool) -> Iterator[StoredTask]:
    """See `State.stored`."""
    for page in hash_pages(client, keys.of(uid, "of-task"), _PAGE):
        wanted = {
            int(task): [int(one.partition(b":")[0]) for one in joined.split(b";")] for task, joined in page.items()
        }
        if not wanted:
            continue
        with answering(), client.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.of(uid, "tasks"), [str(task) for task in wanted])
            pipe.hmget(keys.of(uid, "annotations"), [str(one) for group in wanted.values() for one in group])
            tasks, annotations = pipe.execute()
        values = iter(annotations)
        for (task, group), stored in zip(wanted.items(), tasks, strict=True):
            # Between the two reads an annotation may be gone, or have moved to another task.
            found = [(one, value) for one in group if (value := next(values)) is not None and task_of(value) == task]
            if stored is not None and (made := _stored_task(task, stored, found, bulk_accepted)) is not None:
                yield made


def accepted_tasks(client: redis.Redis, keys: Keys, uid: str) -> Iterator[int]:
    """See `State.accepted_tasks`."""
    for page in hash_pages(client, keys.of(uid, "of-task"), _PAGE):
        for task, joined in page.items():
            if any(int(one.rpartition(b":")[2]) & BULK_ACCEPTED for one in joined.split(b";")):
                yield int(task)


def _stored_task(
    task: int, stored: bytes, found: Sequence[tuple[int, bytes]], bulk_accepted: bool
) -> StoredTask | None:
    kept: list[LabelledAnnotation] = []
    left_out = 0
    for one, value in found:
        flags, annotation = unpack_annotation(one, value)
        if flags & SKIPPED or not flags & HAS_RESULT:
            continue
        if flags & BULK_ACCEPTED and not bulk_accepted:
            left_out += 1
            continue
        kept.append(annotation)
    if not kept and not left_out:
        return None
    kept.sort(key=lambda one: (one.created_at_us, one.id))
    return StoredTask(unpack_task(task, stored), tuple(kept), left_out)
