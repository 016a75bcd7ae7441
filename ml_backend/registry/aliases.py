"""Version numbers and the alias `serving` in Redis: each change is one script, fenced by the token of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    import redis

# KEYS 1 P:number   ARGV 1 the highest number that the store holds   -> a number that nobody had
_NUMBER = """
local number = redis.call('INCR', KEYS[1])
local stored = tonumber(ARGV[1])
if number <= stored then
  number = stored + 1
  redis.call('SET', KEYS[1], string.format('%d', number))
end
return number
"""

# The keys lie in different slots; a Redis Cluster, which RQ does not run on either, would refuse this.
# KEYS 1 P:serving  2 mlb:serving  3 mlb:serving:revision
# ARGV 1 uid  2 number  3 name  4 fencing token, or ''  5 the number served until now, or '0'
#      6 the numbers served before, comma separated  7 now
# -> 'ok', 'fenced' (a newer run has moved it), 'moved' (it is not at ARGV 5 any longer)
_MOVE = """
local current = redis.call('HMGET', KEYS[1], 'number', 'token')
if ARGV[4] ~= '' and current[2] and tonumber(ARGV[4]) < tonumber(current[2]) then return 'fenced' end
if (current[1] or '0') ~= ARGV[5] then return 'moved' end
redis.call('HSET', KEYS[1], 'number', ARGV[2], 'version', ARGV[3], 'before', ARGV[6], 'moved_at', ARGV[7])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'token', ARGV[4]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[3])
return 'ok'
"""

_BEFORE_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Alias:
    """Which version must be served: number, name, since when (seconds since the epoch), and what was before it."""

    number: int
    name: str
    moved_at: float = 0.0
    before: tuple[int, ...] = ()
    """Numbers served before, latest last: the way back."""

    def onward(self, number: int, name: str, now: float) -> Alias:
        """The alias after a promotion of ``number``."""
        return Alias(number, name, now, (*self.before, self.number)[-_BEFORE_LIMIT:])


class Aliases:
    """The alias and the counter of numbers of each project. Every method raises `Unavailable` when Redis is away."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        self._take_number = client.register_script(_NUMBER)
        self._move = client.register_script(_MOVE)

    def _key(self, uid: str, what: str) -> str:
        return f"{self._prefix}{{{uid}}}:{what}"

    def new_number(self, uid: str, stored: int) -> int:
        """A number above every one given out before and above ``stored``."""
        with answering():
            return int(self._take_number(keys=[self._key(uid, "number")], args=[stored]))

    def read(self, uid: str) -> Alias | None:
        """Where the alias points; None when nothing was promoted, or Redis lost it."""
        with answering():
            raw = self._redis.hmget(self._key(uid, "serving"), ["number", "version", "moved_at", "before"])
        number, name, moved_at, before = raw
        if number is None or name is None:
            return None
        return Alias(
            int(number),
            _text(name),
            float(moved_at or 0),
            tuple(int(one) for one in _text(before or b"").split(",") if one),
        )

    def revision(self) -> int:
        """How often an alias was moved, over all projects; 0 after Redis lost everything."""
        with answering():
            return int(self._redis.get(f"{self._prefix}serving:revision") or 0)

    def move(
        self, uid: str, target: Alias, *, expected: int, token: int | None = None
    ) -> Literal["ok", "fenced", "moved"]:
        """Point the alias at ``target`` if it still stands at number ``expected`` (0: nowhere).

        ``token`` is the fencing token of the run that asks; None for a person, whom nothing fences.
        """
        keys = [self._key(uid, "serving"), f"{self._prefix}serving", f"{self._prefix}serving:revision"]
        before = ",".join(map(str, target.before))
        asked_by = "" if token is None else str(token)
        with answering():
            answer = self._move(
                keys=keys, args=[uid, target.number, target.name, asked_by, expected, before, repr(target.moved_at)]
            )
        match _text(answer):
            case "ok":
                return "ok"
            case "fenced":
                return "fenced"
            case _:
                return "moved"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
