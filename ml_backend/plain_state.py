"""What plain classes keep in Redis: events that `fit` has yet to see, the newest one, and what they get and set."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson

from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    import redis

# KEYS 1 P:plain-events  2 P:plain;  ARGV 1 the event as JSON
# Each entry begins with a number of its own, by which it is taken away again.
_PUSH = """
local number = redis.call('HINCRBY', KEYS[2], 'events', 1)
redis.call('RPUSH', KEYS[1], number .. ' ' .. ARGV[1])
return number
"""

# Only whoever holds the project may say that an event was seen (the lease's fencing token), and only the first in line.
# KEYS 1 P:plain-events  2 P:plain  3 P:running
# ARGV 1 number or ''  2 run id  3 token  4 nonce  5 what fit returned, as JSON, or ''  6 whether it left anything (0/1)
# Returns 1, or 0 where nothing was done.
_TAKE = """
local held = redis.call('HMGET', KEYS[3], 'id', 'token', 'nonce')
if held[1] ~= ARGV[2] or held[2] ~= ARGV[3] or held[3] ~= ARGV[4] then return 0 end
if ARGV[1] ~= '' then
  local first = redis.call('LINDEX', KEYS[1], 0)
  if not first or string.match(first, '^%d+') ~= ARGV[1] then return 0 end
  redis.call('LPOP', KEYS[1])
  redis.call('HDEL', KEYS[2], 'tries')
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], 'output', ARGV[5]) end
if ARGV[6] == '1' then redis.call('HSET', KEYS[2], 'left', '1') end
return 1
"""


# KEYS 1 P:plain  2 P:running;  ARGV 1 run id  2 token  3 nonce
_SERVED = """
local held = redis.call('HMGET', KEYS[2], 'id', 'token', 'nonce')
if held[1] == ARGV[1] and held[2] == ARGV[2] and held[3] == ARGV[3] then redis.call('HDEL', KEYS[1], 'left') end
"""


class Proof(Protocol):
    """The part of a lease that proves who holds the project."""

    @property
    def uid(self) -> str:
        """The project."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def token(self) -> int:
        """The fencing token."""

    @property
    def nonce(self) -> str:
        """What tells two leases apart."""


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that waits for `fit`, with its number in the project's line."""

    number: int
    action: str
    data: dict[str, Any]


def line_of(action: str, data: dict[str, Any]) -> bytes:
    """An event as it stands in the line. Raises `TypeError` for what is nested too deeply."""
    return orjson.dumps([action, data])


class PlainState:
    """Every project's line of events. Safe to share between threads; every method raises `Unavailable`."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._prefix = prefix
        self._push = client.register_script(_PUSH)
        self._take = client.register_script(_TAKE)
        self._served = client.register_script(_SERVED)

    def push(self, uid: str, event: bytes) -> int:
        """Put an event, as `line_of` gives it, at the end of the line; returns its number."""
        keys = [self._key(uid, "plain-events"), self._key(uid, "plain")]
        with answering():
            return int(self._push(keys=keys, args=[event]))

    def first(self, uid: str) -> WaitingEvent | None:
        """The event whose turn it is; it stays in the line."""
        with answering():
            found = cast("bytes | None", self._redis.lindex(self._key(uid, "plain-events"), 0))
        if found is None:
            return None
        number, _, text = found.partition(b" ")
        action, data = orjson.loads(text)
        return WaitingEvent(int(number), action, data)

    def waiting(self, uid: str) -> int:
        """How many events wait."""
        with answering():
            return self._redis.llen(self._key(uid, "plain-events"))

    def seen(self, event: WaitingEvent | None, lease: Proof, output: dict[str, Any] | None, *, left: bool) -> bool:
        """`fit` has seen the event: it leaves the line, and what `fit` returned is kept for the next instances.

        ``left``: `fit` left something behind that no version serves yet; this stays known until `served` says so.
        False when the lease does not hold any more: whoever holds the project now lets it be seen again.
        """
        number = "" if event is None else str(event.number)
        kept: bytes | str = orjson.dumps(output, default=str) if output else ""
        keys = [self._key(lease.uid, name) for name in ("plain-events", "plain", "running")]
        with answering():
            return bool(self._take(keys=keys, args=[number, lease.run_id, lease.token, lease.nonce, kept, int(left)]))

    def left(self, uid: str) -> bool:
        """Whether `fit` left something behind that no version serves yet."""
        with answering():
            return bool(self._redis.hexists(self._key(uid, "plain"), "left"))

    def served(self, lease: Proof) -> None:
        """There is a version of what `fit` left behind; where the lease does not hold any more, nothing is said.

        Whoever holds the project by then may have left something newer.
        """
        keys = [self._key(lease.uid, name) for name in ("plain", "running")]
        with answering():
            self._served(keys=keys, args=[lease.run_id, lease.token, lease.nonce])

    def tried(self, uid: str) -> int:
        """Count a try of the event whose turn it is, before it is made; returns which one it is."""
        with answering():
            return self._redis.hincrby(self._key(uid, "plain"), "tries", 1)

    def output(self, uid: str) -> dict[str, Any] | None:
        """What `fit` returned last, if it was anything."""
        with answering():
            found = cast("bytes | None", self._redis.hget(self._key(uid, "plain"), "output"))
        return orjson.loads(found) if found else None

    def newest(self, uid: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """The parts ``project``, ``annotation`` and ``task`` of the newest event that had them; ``data`` is one."""
        key = self._key(uid, "plain-newest")
        with answering():
            if data is not None:
                parts = {
                    name: orjson.dumps(data[name])
                    for name in ("project", "annotation", "task")
                    if isinstance(data.get(name), dict)
                }
                if parts:
                    self._redis.hset(key, mapping=cast("Any", parts))
                return {}
            found = cast("dict[bytes, bytes]", self._redis.hgetall(key))
        return {name.decode(): orjson.loads(part) for name, part in found.items()}

    def values(self, uid: str) -> Values:
        """What the class gets and sets, for one project."""
        return Values(self._redis, self._key(uid, "plain-values"))

    def _key(self, uid: str, name: str) -> str:
        return f"{self._prefix}{{{uid}}}:{name}"


class Values(MutableMapping[tuple[str, str], str]):
    """A project's values, by (project id, key); a missing one is None, as plain classes expect.

    A process works for one project, so the project id that a class uses is not looked at.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis = client
        self._key = key
        self.given: dict[str, str] = {}
        """What the product knows itself, where the class has set nothing."""
        self.changes = 0
        """How often a value became another one."""

    def __getitem__(self, key: tuple[str, str]) -> str:
        with answering():
            found = cast("bytes | None", self._redis.hget(self._key, key[1]))
        return cast("str", self.given.get(key[1])) if found is None else found.decode()

    def __setitem__(self, key: tuple[str, str], value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")  # noqa: TRY004 - what plain classes know
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(self._key, key[1])
            pipe.hset(self._key, key[1], value)
            before, _ = pipe.execute()
        self.changes += before != value.encode("utf-8", "surrogatepass")

    def __delitem__(self, key: tuple[str, str]) -> None:
        with answering():
            self.changes += bool(self._redis.hdel(self._key, key[1]))

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple):
            return False
        with answering():
            return key[1] in self.given or bool(self._redis.hexists(self._key, key[1]))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with answering():
            return iter([("", one.decode()) for one in cast("list[bytes]", self._redis.hkeys(self._key))])

    def __len__(self) -> int:
        with answering():
            return self._redis.hlen(self._key)
