"""The training set and counters in Redis: one script per event, and a streamed snapshot for a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import orjson

from ml_backend.errors import ProjectUnknown
from ml_backend.events import (
    AnnotationsDeleted,
    AnnotationsWritten,
    Event,
    Project,
    ProjectChanged,
    StartTraining,
    TasksCreated,
    TasksDeleted,
    WithoutPayload,
)
from ml_backend.jsonable import sayable
from ml_backend.label_config import config_hash
from ml_backend.redis_errors import answering
from ml_backend.state.gone import forget_deletions
from ml_backend.state.keys import Keys, script_text
from ml_backend.state.packing import Operation, annotation_operation, task_operation
from ml_backend.state.project import ProjectState, project_state
from ml_backend.state.reading import Snapshot, StoredTask, accepted_tasks, stored_tasks
from ml_backend.uids import created_us_of, id_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import redis
    from redis.commands.core import Script

    from ml_backend.counters import Counters

__all__ = ["DECISIONS_KEPT", "Recorded", "Snapshot", "State", "StoredTask"]

DECISIONS_KEPT = 200
_KNOWN_CONFIGS = 1024
_NO_COUNTERS = ("",) * 9


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one event did: ``changes`` stored changes, ``stale`` parts that came too late, and the project after it."""

    uid: str
    changes: int
    stale: int
    project: ProjectState


class State:
    """Every project's training set and counters. Safe to share between threads.

    Every method raises `Unavailable` when Redis does not answer in time or refuses the write.
    """

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._keys = Keys(prefix)
        common = script_text("common.lua")
        self._record = client.register_script(common + script_text("record.lua"))
        self._sync = client.register_script(common + script_text("sync.lua"))
        self._attempted = client.register_script(script_text("attempted.lua"))
        self._known_configs: dict[str, str] = {}

    def record(self, event: Event, now: float) -> Recorded:
        """Record one event in one round trip; a second one looks up a missing uid, or sends a config that Redis lost.

        Raises `ProjectUnknown` when the event names no project or one that cannot be told from others.
        """
        project = None if isinstance(event, WithoutPayload) else event.project
        uid = project.uid if project is not None and project.uid else self._resolve(project)
        return self._run(uid, project, self._operations(event), _date(event), event, now)

    def setup(self, uid: str, label_config: str, extra_params: str | None, now: float) -> ProjectState:
        """What `/setup` says of a project: its label config and, when given, its extra params as JSON text."""
        project = Project(id=id_of(uid), created_at_us=created_us_of(uid), label_config=label_config)
        event = ProjectChanged("SETUP", project)
        found = self._run(uid, project, (), None, event, now, extra_params or "").project
        if found.deleted_at is None:
            return found
        # It is connected again; what came meanwhile may have been told to nobody.
        self.mark(uid, deleted_at=None, want_complete=now)
        with answering():
            self._redis.zadd(self._keys.due, {uid: now}, lt=True)
        return replace(found, deleted_at=None, complete_wanted_at=now)

    def _run(
        self,
        uid: str,
        project: Project | None,
        operations: Sequence[Operation],
        date: str | None,
        event: Event,
        now: float,
        extra_params: str = "",
    ) -> Recorded:
        config = project.label_config if project is not None else None
        digest = config_hash(config) if config else ""
        text = config or ""
        if digest and self._known_configs.get(uid) == digest:
            text = ""
        project_id = project.id if project is not None else id_of(uid)
        head: list[bytes | str | int] = [
            repr(now),
            uid,
            project_id,
            (project.title or "") if project is not None else "",
            digest,
            text,
            project.updated_at_us if project is not None and project.updated_at_us is not None else "",
            project.min_annotations if project is not None and project.min_annotations is not None else "",
            extra_params,
            *(
                _counters(project.counters, date)
                if project is not None and project.counters is not None
                else _NO_COUNTERS
            ),
            _kind(event),
            _wanted(event),
            len(operations),
        ]
        for operation in operations:
            head.extend(operation)
        answer = orjson.loads(self._call(self._record, uid, head))
        if answer[1]:
            head[5] = config or ""
            del head[21:]
            head[20] = 0
            head[9:18] = _NO_COUNTERS
            changes, stale = answer[0], answer[6]
            answer = orjson.loads(self._call(self._record, uid, head))
            answer[0], answer[6] = changes, stale
        if digest:
            # Only saves sending the text again; threads may race here, Redis says when it misses one.
            if len(self._known_configs) >= _KNOWN_CONFIGS:
                self._known_configs.clear()
            self._known_configs[uid] = digest
        state = project_state(
            _flat(answer[3]),
            changed=answer[2],
            running=answer[4],
            waiting=answer[5],
            runs=_flat(answer[7]),
            paused=answer[8],
        )
        return Recorded(uid, answer[0], answer[6], state)

    def apply(self, uid: str, operations: Sequence[Operation], now: float) -> int:
        """Apply what Label Studio's API said, outside of a sync; returns how many stored changes that made.

        `SyncState` does this for a sync: it lets events win that came after the sync began.
        """
        head: list[bytes | str | int] = [repr(now), uid, id_of(uid), "", "", len(operations)]
        for operation in operations:
            head.extend(operation)
        return int(cast("list[Any]", self._call(self._sync, uid, head))[0])

    def load(self, uid: str) -> ProjectState | None:
        """The project as it stands; None when it is not known."""
        key = self._keys.of
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key(uid, "meta"))
            pipe.zcard(key(uid, "changed"))
            pipe.hget(key(uid, "running"), "id")
            pipe.hget(key(uid, "waiting"), "id")
            pipe.hgetall(key(uid, "runs"))
            pipe.get(key(uid, "paused"))
            pipe.zrange(key(uid, "starts"), 0, -1, withscores=True)
            meta, changed, running, waiting, runs, paused, starts = pipe.execute()
        if b"uid" not in meta:
            return None
        return project_state(
            _text(meta),
            changed=changed,
            running=(running or b"").decode(),
            waiting=(waiting or b"").decode(),
            runs=_text(runs),
            paused=(paused or b"").decode(),
            starts=[score for _, score in starts],
        )

    def uids(self) -> list[str]:
        """Every known project's uid."""
        with answering():
            found = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys.uids))
        return [uid for joined in found.values() for uid in joined.decode().split(",")]

    def label_config(self, uid: str) -> str:
        """The project's label config, as XML; empty when none was seen."""
        with answering():
            return (cast("bytes | None", self._redis.get(self._keys.of(uid, "config"))) or b"").decode()

    def trained_config(self, uid: str) -> str:
        """The label config that the last training saw, as XML; empty before one."""
        with answering():
            return (cast("bytes | None", self._redis.get(self._keys.of(uid, "trained-config"))) or b"").decode()

    def tasks_alive(self, uid: str, ids: Collection[int]) -> dict[int, bool] | None:
        """True for tasks in the training set, False for those whose deletion is remembered; others are missing.

        None: the project was deleted, or is not known.
        """
        names = list(ids)
        key = self._keys.of
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(key(uid, "meta"), "uid", "deleted_at")
            for one in names:
                pipe.hexists(key(uid, "of-task"), str(one))
            if names:
                pipe.hmget(key(uid, "gone"), [f"t{one}" for one in names])
            (known, deleted), *found = pipe.execute()
        if known is None or deleted is not None:
            return None
        alive = {one: True for one, there in zip(names, found, strict=False) if there}
        tombs = zip(names, found[-1], strict=True) if names else ()
        return {one: False for one, tomb in tombs if tomb is not None and b"!" not in tomb} | alive

    # --- a run's view -----------------------------------------------------------------------------------------------

    def snapshot(self, uid: str) -> Snapshot:
        """Mark a moment: `stored` read after it holds at least everything up to ``seq``."""
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self._keys.of(uid, "meta"), "seq", "params")
            pipe.get(self._keys.of(uid, "config"))
            pipe.zrange(self._keys.of(uid, "changed"), 0, -1)
            (seq, params), config, changed = pipe.execute()
        return Snapshot(
            uid,
            int(seq or 0),
            (config or b"").decode(),
            (params or b"").decode(),
            frozenset(int(one) for one in changed),
        )

    def stored(self, uid: str, *, bulk_accepted: bool = False) -> Iterator[StoredTask]:
        """Every task that has annotations to train on, streamed in pages, in no particular order.

        Skipped annotations and those without a result are left out, unchanged bulk-accepted predictions too unless
        ``bulk_accepted`` (fact 21). A task may come twice if the set changes meanwhile; the caller keeps one.
        """
        return stored_tasks(self._redis, self._keys, uid, bulk_accepted=bulk_accepted)

    def accepted_tasks(self, uid: str) -> frozenset[int]:
        """The tasks with a bulk-accepted prediction that nobody changed (fact 21)."""
        return frozenset(accepted_tasks(self._redis, self._keys, uid))

    def attempted(
        self,
        uid: str,
        snapshot: Snapshot,
        now: float,
        *,
        seconds: float,
        trained_size: int | None = None,
        config_hash: str = "",
    ) -> None:
        """A run that had taken ``snapshot`` ended, ``seconds`` after it began.

        With ``trained_size`` it trained: what had changed before the snapshot is no change any more.
        """
        key = self._keys.of
        arguments: list[str | int] = [
            uid,
            repr(now),
            snapshot.seq,
            repr(seconds),
            "" if trained_size is None else trained_size,
            config_hash,
            repr(now - seconds),
            snapshot.label_config,
        ]
        with answering():
            self._attempted(
                keys=[key(uid, "meta"), key(uid, "changed"), self._keys.due, key(uid, "trained-config")],
                args=arguments,
            )
        forget_deletions(self._redis, self._keys, uid, now)

    # --- marks ------------------------------------------------------------------------------------------------------

    def mark(self, uid: str, **values: str | float | None) -> None:
        """Set or (with None) remove marks such as ``threshold_at``, ``outdated``, ``synced_at``."""
        key = self._keys.of(uid, "meta")
        kept = {
            name: value if isinstance(value, str) else repr(value)
            for name, value in values.items()
            if value is not None
        }
        removed = [name for name, value in values.items() if value is None]
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            for name, value in kept.items():
                pipe.hset(key, name, value)
            if removed:
                pipe.hdel(key, *removed)
            pipe.execute()

    def decided(self, uid: str, kind: str, reason: str, now: float) -> None:
        """Keep a decision for people to read: the last `DECISIONS_KEPT`, newest first."""
        key = self._keys.of(uid, "decisions")
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, orjson.dumps({"at": now, "kind": kind, "reason": sayable(reason)}))
            pipe.hincrby(self._keys.of(uid, "decided"), kind, 1)
            pipe.ltrim(key, 0, DECISIONS_KEPT - 1)
            pipe.execute()

    def decisions(self, uid: str, limit: int = 50) -> list[dict[str, Any]]:
        """The last decisions, newest first: ``at`` (s), ``kind``, ``reason``."""
        with answering():
            found = cast("list[bytes]", self._redis.lrange(self._keys.of(uid, "decisions"), 0, limit - 1))
        return [orjson.loads(one) for one in found]

    def decided_so_far(self, uid: str) -> dict[str, int]:
        """How many decisions of each kind there were, ever."""
        with answering():
            found = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys.of(uid, "decided")))
        return {kind.decode(): int(count) for kind, count in found.items()}

    # --- the parts --------------------------------------------------------------------------------------------------

    def _resolve(self, project: Project | None) -> str:
        """The uid of a project that came without its creation date; exactly one known project must fit."""
        if project is None:
            uids = self.uids()
            if len(uids) == 1:
                return uids[0]
            raise ProjectUnknown("project", "is missing" + (f", and {len(uids)} projects are known" if uids else ""))
        with answering():
            joined = cast("bytes | None", self._redis.hget(self._keys.uids, str(project.id)))
        uids = joined.decode().split(",") if joined else []
        if len(uids) == 1:
            return uids[0]
        reason = "is not known here" if not uids else f"{len(uids)} known projects have this id"
        raise ProjectUnknown("project.id", f"{project.id} {reason}")

    def _operations(self, event: Event) -> list[Operation]:
        if isinstance(event, AnnotationsWritten):
            born = event.action.endswith("_CREATED")
            return [
                *(task_operation(task) for task in event.tasks if task.data is not None),
                *(annotation_operation(annotation, born=born) for annotation in event.annotations),
            ]
        if isinstance(event, AnnotationsDeleted):
            return [("d", one, "", "", "", "", "") for one in event.ids]
        if isinstance(event, TasksDeleted):
            return [("x", one, "", "", "", "", "") for one in event.ids]
        return []

    def _call(self, script: Script, uid: str, arguments: list[bytes | str | int]) -> Any:  # noqa: ANN401 - the script's
        with answering():
            return script(keys=self._keys.of_scripts(uid), args=arguments)


def _kind(event: Event) -> str:
    if isinstance(event, (AnnotationsWritten, AnnotationsDeleted)):
        return "annotations"
    if isinstance(event, TasksCreated):
        return "tasks"
    return "start" if isinstance(event, StartTraining) else ""


def _wanted(event: Event) -> str:
    """The sync that an event asks for by itself: after these, counters do not tell everything (facts 9, 11, 23)."""
    if isinstance(event, WithoutPayload):
        return "incremental"
    if isinstance(event, (AnnotationsDeleted, TasksDeleted)) and len(event.ids) > 1:
        return "complete"
    return ""


def _counters(counters: Counters, date: str | None) -> tuple[str | int, ...]:
    return (date or "undated", *counters.as_dict().values())


def _date(event: Event) -> str | None:
    """When the payload's counters were true, in microseconds: only what the event concerns can tell (fact 25)."""
    newest: int | None = None
    if isinstance(event, AnnotationsWritten):
        newest = max((one.updated_at_us or 0 for one in event.annotations), default=0)
    elif isinstance(event, TasksCreated):
        newest = event.newest_us
    elif isinstance(event, ProjectChanged):
        newest = event.project.updated_at_us
    return str(newest) if newest else None


def _flat(values: list[str]) -> dict[str, str]:
    it = iter(values)
    return dict(zip(it, it, strict=True))


def _text(values: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in values.items()}
