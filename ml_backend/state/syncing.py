"""The state's part of a sync: what Label Studio's API says replaces what is stored, and yields to newer events.

A complete sync reads all tasks that have annotations, by ascending id; each page says which tasks lie between two ids,
so that what is stored between them and not on the page can be removed at once: memory stays that of one page and eight
bytes for each stored task, and a crash loses no more than a page.
"""

from __future__ import annotations

import uuid
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from ml_backend.errors import LeaseLost
from ml_backend.redis_errors import answering
from ml_backend.state.gone import forget_deletions
from ml_backend.state.keys import Keys, script_text
from ml_backend.state.packing import Operation, annotation_operation, only_operation, task_operation
from ml_backend.state.reading import hash_pages
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis
    from redis.commands.core import Script

    from ml_backend.counters import Counters
    from ml_backend.events import Annotation, Task

SyncKind = Literal["complete", "incremental"]
LabelledTask = tuple["Task", "Iterable[Annotation]"]

_AT_ONCE = 500
_BYTES_AT_ONCE = 4_000_000
"""Operations in one script call, and their bodies' bytes: Redis answers nobody else meanwhile."""


@dataclass(frozen=True, eq=False)
class Sync:
    """A sync under way. ``cursor``: with `SyncState.resume`, tasks up to this id are done.

    ``began`` is our clock; ``from_us`` is Label Studio's, before anything was asked for.
    """

    uid: str
    token: str
    kind: SyncKind
    began: float
    cursor: int
    from_us: int | None
    stored: array[int] = field(repr=False)
    """Ids of the tasks that were stored when it began, ascending."""


class SyncState:
    """Syncs of every project's training set. What an event changes after `begin` is neither overwritten nor removed.

    At most one sync of a project counts: `begin` and `resume` shut out whoever held it before, whose next call raises
    `LeaseLost` and writes nothing. Every method raises `Unavailable` when Redis does not answer.
    """

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._keys = Keys(prefix)
        common = script_text("common.lua")
        self._begin = client.register_script(script_text("begin_sync.lua"))
        self._apply = client.register_script(common + script_text("sync.lua"))
        self._finish = client.register_script(common + script_text("finish_sync.lua"))

    def begin(self, uid: str, kind: SyncKind, now: float, *, from_us: int | None = None) -> Sync:
        """Begin a sync, before anything is asked of Label Studio.

        ``from_us`` is Label Studio's own time then, in microseconds (the ``Date`` header of an answer); after the sync
        it is `ProjectState.synced_until_us`, from where the next incremental one looks.
        """
        sync = self._take(uid, kind, now, "" if from_us is None else str(from_us))
        if sync is None:
            raise AssertionError("a sync that begins is there")
        return sync

    def resume(self, uid: str, now: float) -> Sync | None:
        """Go on with the sync that a crash left behind, from its cursor; None when there is none."""
        return self._take(uid, "", now, "")

    def apply(
        self, sync: Sync, page: Iterable[LabelledTask], now: float, *, between: tuple[int, int | None] | None = None
    ) -> int:
        """Apply a page: tasks, each with all the annotations it has (none: they are removed). Returns how many changed.

        A task's ``data`` may be None where it is known to have no annotations.
        ``between`` (complete syncs) is (after, up to): the page holds every task with annotations whose id is greater
        than ``after`` and at most ``up to``, None on the last page. Stored tasks between them that it does not hold are
        removed, and the cursor moves to ``up to``.
        """
        changes = 0
        seen: set[int] = set()
        batch = _Batch()
        for task, labelled in page:
            seen.add(task.id)
            operations = _task_operations(task, labelled)
            if batch.is_full_with(operations):
                changes += self._send(sync, batch.take(), now)
            batch.add(operations)
        for one in _stored_between(sync.stored, between):
            if one not in seen:
                # It may be there still, without annotations.
                gone = [only_operation(one, ())]
                if batch.is_full_with(gone):
                    changes += self._send(sync, batch.take(), now)
                batch.add(gone)
        cursor = "" if between is None or between[1] is None else between[1]
        return changes + self._send(sync, batch.take(), now, cursor)

    def finish(
        self,
        sync: Sync,
        now: float,
        *,
        counters: Counters | None = None,
        counters_us: int | None = None,
        touch: int = -1,
    ) -> bool:
        """End the sync; returns whether ``counters`` differ from what is stored now.

        ``counters`` are the API's project's, asked for after the last page; ``touch`` is `ProjectState.touch` read
        *before* asking for them: should an event have come since, they are too old to compare, and False is returned.
        ``counters_us`` is their date on Label Studio's clock. Equal counters clear the drift, others set it.
        A complete sync forgets old deletions and settles wishes for a sync from before it began.
        """
        joined = "" if counters is None else ",".join(map(str, counters.as_dict().values()))
        differs = self._end(sync, sync.kind, now, [str(touch), "" if counters_us is None else str(counters_us), joined])
        if sync.kind == "complete":
            forget_deletions(self._redis, self._keys, sync.uid, now)
        return differs

    def abort(self, sync: Sync, now: float) -> None:
        """Give the sync up; what was applied stays."""
        self._end(sync, "aborted", now, ["-1", "", ""])

    def _take(self, uid: str, kind: str, now: float, from_us: str) -> Sync | None:
        token = uuid.uuid4().hex
        keys = [self._keys.of(uid, "meta"), self._keys.of(uid, "touched")]
        answer = self._call(self._begin, keys, [repr(now), token, kind, from_us])
        if not answer:
            return None
        found, began, cursor, time = (one.decode() for one in answer)
        # Read after the beginning: what events add from now on is theirs, and never removed by this sync.
        return Sync(
            uid,
            token,
            cast("SyncKind", found),
            float(began),
            int(cursor),
            int(time) if time else None,
            self._stored_tasks(uid),
        )

    def _stored_tasks(self, uid: str) -> array[int]:
        found = array("q")
        for page in hash_pages(self._redis, self._keys.of(uid, "of-task")):
            found.extend(int(one) for one in page)
        return array("q", sorted(set(found)))

    def _send(self, sync: Sync, operations: list[Operation], now: float, cursor: int | str = "") -> int:
        arguments: list[bytes | str | int] = [*_head(sync, now), sync.token, cursor, len(operations)]
        for operation in operations:
            arguments.extend(operation)
        answer = self._call(self._apply, self._keys.of_scripts(sync.uid), arguments)
        if answer[0] < 0:
            raise LeaseLost("another sync of this project has begun")
        return int(answer[0])

    def _end(self, sync: Sync, outcome: str, now: float, rest: list[str]) -> bool:
        arguments: list[bytes | str | int] = [*_head(sync, now), sync.token, outcome, *rest]
        done, differs = self._call(self._finish, self._keys.of_scripts(sync.uid), arguments)
        if not done:
            raise LeaseLost("another sync of this project has begun")
        return bool(differs)

    def _call(self, script: Script, keys: list[str], arguments: list[bytes | str | int] | list[str]) -> list[Any]:
        with answering():
            return cast("list[Any]", script(keys=keys, args=arguments))


class _Batch:
    """Operations that go to Redis together. A task's stay together, so that it is replaced in one step."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._bytes = 0

    def is_full_with(self, more: list[Operation]) -> bool:
        """Whether these would be too many."""
        return bool(self._operations) and (
            len(self._operations) + len(more) > _AT_ONCE or self._bytes + _size(more) > _BYTES_AT_ONCE
        )

    def add(self, operations: list[Operation]) -> None:
        """Add them."""
        self._operations.extend(operations)
        self._bytes += _size(operations)

    def take(self) -> list[Operation]:
        """What was added since the last time."""
        taken, self._operations, self._bytes = self._operations, [], 0
        return taken


def _size(operations: list[Operation]) -> int:
    return sum(len(one[6]) for one in operations if isinstance(one[6], bytes))


def _head(sync: Sync, now: float) -> tuple[str, str, str]:
    return repr(now), sync.uid, str(id_of(sync.uid))


def _task_operations(task: Task, annotations: Iterable[Annotation]) -> list[Operation]:
    listed = list(annotations)
    return [
        *([task_operation(task)] if task.data is not None else []),
        *(annotation_operation(one) for one in listed),
        only_operation(task.id, (one.id for one in listed)),
    ]


def _stored_between(stored: array[int], between: tuple[int, int | None] | None) -> array[int]:
    if between is None:
        return array("q")
    after, up_to = between
    return stored[bisect_right(stored, after) : len(stored) if up_to is None else bisect_right(stored, up_to)]
