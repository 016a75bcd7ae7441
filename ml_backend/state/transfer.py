"""A project's state as a stream of JSON lines: for backups, and for moving a project to another Redis.

The first line says what it is: ``{"refit_export": 1, "schema": 1, "uid", "release", "exported_at"}``. Then come parts
of keys, ``{"key": "annotations", "type": "hash", "entries": [[field, value], ...]}``; of ``zset`` the value is a score,
of ``list`` and ``set`` an entry is a value alone, of ``string`` there is one. Texts are texts; other bytes are
``{"base64": "..."}``. The last line is ``{"end": <number of lines before it>}``, without which nothing is imported.

Both are atomic: an export is of one moment, whatever is annotated meanwhile; an import appears whole or not at all.
What belongs to processes (leases, what waits and trains, whose sync is under way) stays behind.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING, Any, cast

import orjson

from ml_backend.errors import BadInput, NewerState, RefitError
from ml_backend.redis_errors import answering
from ml_backend.state.keys import Keys
from ml_backend.state.schema import SCHEMA, refuse_newer
from ml_backend.uids import id_of, require_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import redis
    from redis.client import Pipeline

FORMAT = 1
"""Raised when an older release would read wrongly what is written; a key that it does not know it refuses by itself."""

KEPT: dict[str, str] = {
    "meta": "hash",
    "annotations": "hash",
    "tasks": "hash",
    "of-task": "hash",
    "changed": "zset",
    "gone": "hash",
    "config": "string",
    "trained-config": "string",
    "decisions": "list",
    "decided": "hash",
    "runs": "hash",
    "starts": "zset",
    "history": "list",
    "totals": "hash",
    "paused": "string",
    "token": "string",
    "run-seq": "string",
    "number": "string",
    "serving": "hash",
    "refresh-marks": "hash",
    "plain": "hash",
    "plain-events": "list",
    "plain-newest": "hash",
    "plain-values": "hash",
}
"""What is exported of a project: keys by their type."""

OVER = ("touched", "sync", "refresh", "refresh-lock", "load-errors")
"""What a replaced state leaves nothing of: who syncs it or refreshes its predictions notices, and stops."""

_PASSING = ("syncing", "sync_kind", "sync_began", "sync_cursor", "sync_from")
_A_PART = 500
_LONGEST_COPY_S = 3600


class Transfer:
    """Exports and imports. Every method raises `Unavailable` when Redis does not answer or refuses writes."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._keys = Keys(prefix)
        self._serving = f"{prefix}serving"

    def lines(self, uid: str, *, release: str, now: float) -> Iterator[bytes]:
        """The export of a project, line by line, without line ends. Needs twice its memory in Redis while it is read.

        Raises `BadInput` for a project that is not known, `RefitError` when nobody reads on for an hour.
        """
        require_uid(uid)
        copies = {name: self._keys.of(uid, f"export-{secrets.token_hex(6)}-{name}") for name in KEPT}
        with answering():
            if not self._redis.hexists(self._keys.of(uid, "meta"), "uid"):
                raise BadInput("project", f"{uid} is not known here")
            refuse_newer(
                _decoded(self._redis.hget(self._keys.of(uid, "meta"), "schema")), f"the state of project {uid}"
            )
            with self._redis.pipeline(transaction=True) as pipe:
                for name, copy in copies.items():
                    pipe.copy(self._keys.of(uid, name), copy)
                    pipe.expire(copy, _LONGEST_COPY_S)
                there = pipe.execute()[::2]
        held = {name: copy for (name, copy), one in zip(copies.items(), there, strict=True) if one}
        try:
            head = {"refit_export": FORMAT, "schema": SCHEMA, "uid": uid, "release": release, "exported_at": now}
            yield orjson.dumps(head)
            self._renew(held.values())
            count = 1
            for name, copy in held.items():
                for entries in self._parts(copy, KEPT[name]):
                    if name == "meta":
                        entries = [one for one in entries if one[0] not in _PASSING]  # noqa: PLW2901 - the same, less
                    yield orjson.dumps({"key": name, "type": KEPT[name], "entries": entries})
                    # Who reads may take any time, and must not get the rest of a copy that is gone as the end of it.
                    self._renew(held.values())
                    count += 1
            yield orjson.dumps({"end": count})
        finally:
            with answering():
                self._redis.unlink(*copies.values())

    def take_in(self, lines: Iterable[bytes], *, now: float, replace: bool = False) -> str:
        """Import an export; returns the project's uid. It is synced with Label Studio as soon as that can be asked.

        Raises `BadInput` (field ``line <n>``) for what is no export or is cut short, `BadInput` (``project``) when the
        project is known here already and ``replace`` is false, or trains; `NewerState` for one of a newer release;
        `RefitError` when no line comes for an hour.
        """
        token = secrets.token_hex(6)
        reading = _Reading(lines)
        uid = reading.uid
        fresh: dict[str, str] = {}
        try:
            for name, entries in reading.parts():
                if not entries:
                    continue
                self._renew(fresh.values())
                copy = fresh.setdefault(name, self._keys.of(uid, f"import-{token}-{name}"))
                with answering(), self._redis.pipeline(transaction=False) as pipe:
                    _write(pipe, copy, KEPT[name], entries)
                    pipe.expire(copy, _LONGEST_COPY_S)
                    pipe.execute()
            with answering():
                stated = _decoded(self._redis.hget(fresh["meta"], "uid")) if "meta" in fresh else ""
            if stated != uid:
                raise BadInput("line 1", f"is of project {uid}, and the rest is not")
            self._renew(fresh.values())
            self._appear(uid, fresh, now, replace=replace)
        finally:
            if fresh:
                with answering():
                    self._redis.unlink(*fresh.values())
        return uid

    def _appear(self, uid: str, fresh: dict[str, str], now: float, *, replace: bool) -> None:
        project_id, meta = str(id_of(uid)), self._keys.of(uid, "meta")
        running, waiting = self._keys.of(uid, "running"), self._keys.of(uid, "waiting")

        def swap(pipe: Pipeline) -> None:
            known = pipe.hexists(meta, "uid")
            if known and not replace:
                raise BadInput("project", f"{uid} is known here already: --replace throws away what is known")
            if pipe.exists(running, waiting):
                raise BadInput("project", f"{uid} trains, or is about to: cancel that first (ml-backend cancel)")
            joined = cast("bytes | None", pipe.hget(self._keys.uids, project_id))
            uids = dict.fromkeys([*(joined.decode().split(",") if joined else []), uid])
            version = cast("bytes | None", pipe.hget(fresh["serving"], "version")) if "serving" in fresh else None
            pipe.multi()
            pipe.unlink(*(self._keys.of(uid, name) for name in (*KEPT, *OVER)))
            for name, copy in fresh.items():
                pipe.persist(copy)
                pipe.rename(copy, self._keys.of(uid, name))
            pipe.hset(meta, mapping={"want_complete": repr(now)})
            pipe.hset(self._keys.uids, project_id, ",".join(uids))
            pipe.zadd(self._keys.due, {uid: now})
            if version is not None:
                pipe.hset(self._serving, uid, version)
            else:
                pipe.hdel(self._serving, uid)
            pipe.incr(f"{self._serving}:revision")

        with answering():
            self._redis.transaction(cast("Callable[[Pipeline], None]", swap), meta, running, waiting, self._keys.uids)

    def _renew(self, copies: Iterable[str]) -> None:
        """Let the copies last for another hour. Raises `RefitError` where one is gone: it would not be whole."""
        with answering(), self._redis.pipeline(transaction=False) as pipe:
            for copy in copies:
                pipe.expire(copy, _LONGEST_COPY_S)
            if not all(pipe.execute()):
                raise RefitError("it stood still for an hour, and what was read is thrown away by now: begin again")

    def _parts(self, key: str, kind: str) -> Iterator[list[Any]]:
        """What a key holds, some entries at a time."""
        with answering():
            if kind == "string":
                value = cast("bytes | None", self._redis.get(key))
                if value is not None:
                    yield [_told(value)]
                return
            if kind == "list":
                for first in range(0, self._redis.llen(key), _A_PART):
                    entries = cast("list[bytes]", self._redis.lrange(key, first, first + _A_PART - 1))
                    yield [_told(one) for one in entries]
                return
            scan = self._redis.hscan if kind == "hash" else self._redis.zscan
            cursor: int = -1
            while cursor:
                cursor, found = cast("tuple[int, Any]", scan(key, max(cursor, 0), count=_A_PART))
                pairs = found.items() if isinstance(found, dict) else found
                if pairs:
                    yield [[_told(one), value if kind == "zset" else _told(value)] for one, value in pairs]


class _Reading:
    """Reads an export's lines and holds them to the form above."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._count = 0
        head = self._next()
        if head is None or head.get("refit_export") is None:
            raise BadInput("line 1", "is not the beginning of an export of ml-backend")
        if not isinstance(head["refit_export"], int) or head["refit_export"] > FORMAT:
            raise NewerState("this export was written by a newer release: upgrade ml-backend here too")
        refuse_newer(head.get("schema"), "this export")
        self.uid = require_uid(head.get("uid"), "line 1.uid")

    def parts(self) -> Iterator[tuple[str, list[Any]]]:
        """(key, entries) up to the end."""
        while (line := self._next()) is not None:
            if "end" in line:
                if line["end"] != self._count - 1:
                    raise BadInput(
                        self._at, f"says that {line['end']} lines come before it, and it is {self._count - 1}"
                    )
                return
            name, entries = line.get("key"), line.get("entries")
            if not isinstance(name, str) or KEPT.get(name) is None or line.get("type") != KEPT[name]:
                raise BadInput(
                    self._at,
                    "is of no key that a project has; if a newer release wrote it, upgrade ml-backend here",
                )
            if not isinstance(entries, list):
                raise BadInput(self._at, "has no entries")
            try:
                yield name, [_entry(KEPT[name], one) for one in entries]
            except (KeyError, TypeError, ValueError, binascii.Error):
                raise BadInput(self._at, "has an entry that cannot be read") from None
        raise BadInput(self._at, "is the last one: the export is cut short")

    @property
    def _at(self) -> str:
        return f"line {self._count}"

    def _next(self) -> dict[str, Any] | None:
        line = next(self._lines, None)
        if line is None:
            return None
        self._count += 1
        try:
            found = orjson.loads(line)
        except ValueError:
            raise BadInput(self._at, "is not JSON") from None
        if not isinstance(found, dict):
            raise BadInput(self._at, "is not a JSON object")
        return found


def _entry(kind: str, entry: Any) -> Any:  # noqa: ANN401 - JSON
    if kind in {"string", "list"}:
        return _meant(entry)
    first, second = entry
    return _meant(first), float(second) if kind == "zset" else _meant(second)


def _write(pipe: Pipeline, key: str, kind: str, entries: list[Any]) -> None:
    if kind == "string":
        pipe.set(key, entries[0])
    elif kind == "list":
        pipe.rpush(key, *entries)
    elif kind == "zset":
        pipe.zadd(key, dict(entries))
    else:
        pipe.hset(key, mapping=dict(entries))


def _told(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _meant(value: Any) -> bytes:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(value["base64"], validate=True)


def _decoded(value: Any) -> str:  # noqa: ANN401 - redis-py's own types name coroutines too
    return value.decode() if isinstance(value, bytes) else ""
