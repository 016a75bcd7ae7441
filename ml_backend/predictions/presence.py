"""Which web processes live, and which version of a project each of them serves: kept in Redis by all, for all."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from ml_backend.jsonable import sayable
from ml_backend.redis_errors import answering
from ml_backend.registry import version_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

BEAT_S = 2.0
SILENT_S = 6.0  # three beats: then a process counts as gone

# Redis' own clock, since the processes' machines may disagree.
# KEYS 1 mlb:web   ARGV 1 process  2 seconds of silence  -> 1 when it was not known as living
_BEAT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now - ARGV[2]))
return redis.call('ZADD', KEYS[1], string.format('%.3f', now), ARGV[1])
"""

# KEYS 1 mlb:web  2 P:loaded  3 P:load-errors  4 P:serving  5 P:meta
# ARGV 1 seconds of silence, then the fields of P:meta that are wanted too, at least one
# -> what must be served or false, those fields, then what each living process serves that has loaded anything
_STANDING = """
local time = redis.call('TIME')
local since = time[1] + time[2] / 1000000 - ARGV[1]
local answer = {redis.call('HGET', KEYS[4], 'version'), redis.call('HMGET', KEYS[5], unpack(ARGV, 2))}
local loaded = redis.call('HGETALL', KEYS[2])
for index = 1, #loaded, 2 do
  local beat = redis.call('ZSCORE', KEYS[1], loaded[index])
  if beat and tonumber(beat) >= since then
    answer[#answer + 1] = loaded[index + 1]
  else
    redis.call('HDEL', KEYS[2], loaded[index])
    redis.call('HDEL', KEYS[3], loaded[index])
  end
end
return answer
"""


@dataclass(frozen=True, slots=True)
class LoadError:
    """A version that a web process could not load: which one, why, and when (seconds since the epoch)."""

    process: str
    version: str
    error: str
    at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What must be served, and what each living process serves that has loaded anything of the project.

    ``fields`` are those of the project that were asked for with it, None for what is not there.
    """

    target: str | None
    served: tuple[str, ...]
    fields: tuple[str | None, ...] = ()

    def agreed(self) -> str | None:
        """The version to name to Label Studio: the new one once all serve it, until then the one before."""
        others = [name for name in self.served if name != self.target]
        return min(others, key=_number) if others else self.target


class Presence:
    """This process among the others. Every method raises `Unavailable` when Redis is away."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._redis = client
        self._prefix = prefix
        self._beat = client.register_script(_BEAT)
        self._standing = client.register_script(_STANDING)

    def _key(self, uid: str, what: str) -> str:
        return f"{self._prefix}{{{uid}}}:{what}"

    def beat(self) -> bool:
        """Say that this process lives; True when the others had not known so, and what it serves must be said again."""
        with answering():
            return bool(self._beat(keys=[f"{self._prefix}web"], args=[self.process, SILENT_S]))

    def serves(self, uid: str, name: str) -> None:
        """Say that this process serves version ``name`` now."""
        with answering():
            self._redis.hset(self._key(uid, "loaded"), self.process, name)

    def failed(self, uid: str, version: str, error: str, at: float) -> None:
        """Leave a note that a version could not be loaded here."""
        note = orjson.dumps({"version": version, "error": sayable(error[:2000]), "at": at})
        with answering():
            self._redis.hset(self._key(uid, "load-errors"), self.process, note)

    def healed(self, uid: str) -> None:
        """Take the note away."""
        with answering():
            self._redis.hdel(self._key(uid, "load-errors"), self.process)

    def dropped(self, uids: list[str]) -> None:
        """Say that this process serves nothing of these projects any more."""
        with answering(), self._redis.pipeline(transaction=False) as pipe:
            for uid in uids:
                pipe.hdel(self._key(uid, "loaded"), self.process)
                pipe.hdel(self._key(uid, "load-errors"), self.process)
            pipe.execute()

    def leave(self, uids: list[str]) -> None:
        """Say that this process ends."""
        self.dropped(uids)
        with answering():
            self._redis.zrem(f"{self._prefix}web", self.process)

    def living(self) -> int:
        """How many web processes live."""
        with answering():
            seconds, micros = self._redis.time()
            return int(self._redis.zcount(f"{self._prefix}web", seconds + micros / 1e6 - SILENT_S, "+inf"))

    def standing(self, uid: str, fields: Sequence[str] = ()) -> Standing:
        """What must be served and what is, and ``fields`` of the project, in one round trip.

        Notes of processes that are gone are removed on the way.
        """
        names = ("loaded", "load-errors", "serving", "meta")
        keys = [f"{self._prefix}web", *(self._key(uid, what) for what in names)]
        with answering():
            target, found, *served = self._standing(keys=keys, args=[SILENT_S, *(fields or ("uid",))])
        return Standing(
            target.decode() if target else None,
            tuple(one.decode() for one in served),
            tuple(None if one is None else one.decode() for one in found[: len(fields)]),
        )

    def errors(self, uid: str) -> list[LoadError]:
        """What could not be loaded, by which process."""
        with answering():
            notes = self._redis.hgetall(self._key(uid, "load-errors"))
        return [LoadError(_text(process), **orjson.loads(note)) for process, note in sorted(notes.items())]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _number(name: str) -> int:
    return version_number(name) or 0
