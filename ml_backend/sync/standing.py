"""How a project's sync stands, in Redis: who holds it, how far it is, how the last one ended, when the next may try."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, cast

from ml_backend.errors import LeaseLost, Unavailable
from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

LEASE_S = 15.0
"""A sync whose process is gone is taken over after this."""

Value = str | float | None

# KEYS 1 P:sync
# ARGV 1 'take', 'keep' or 'leave'  2 token  3 lease (s)  4… fields and values; an empty value removes the field
# Returns 1, or 0 when somebody else holds it (take) or it is held no longer (keep, leave); nothing was written then.
_HOLD = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local held = redis.call('HMGET', KEYS[1], 'token', 'until')
if ARGV[1] == 'take' then
  if held[1] and held[1] ~= ARGV[2] and tonumber(held[2]) > now then return 0 end
elseif held[1] ~= ARGV[2] then
  return 0
end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
if ARGV[1] == 'leave' then
  redis.call('HDEL', KEYS[1], 'token', 'until')
else
  redis.call('HSET', KEYS[1], 'token', ARGV[2], 'until', string.format('%.3f', now + tonumber(ARGV[3])))
end
return 1
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The hash ``P:sync``. Times are seconds since the epoch.

    ``running``: somebody holds it. ``phase`` is what it does (``reading``, ``comparing``), ``done`` of ``total``
    annotations. ``error`` is why the last one failed, ``failures`` how often in a row, ``next_try`` when the next may
    try, ``access`` with which address and key it failed. ``asked`` is why somebody wants one; ``forced``: a person
    does, who need not wait. ``differed``: complete syncs in a row that left a difference.
    """

    running: bool = False
    phase: str = ""
    kind: str = ""
    reason: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    failures: int = 0
    next_try: float | None = None
    began: float | None = None
    ended: float | None = None
    outcome: str = ""
    changes: int = 0
    asked: str = ""
    asked_at: float | None = None
    forced: bool = False
    differed: int = 0
    complete_ended: float | None = None
    complete_seconds: float = 0.0
    incremental_seconds: float = 0.0
    access: str = ""

    def with_access(self, fingerprint: str) -> Standing:
        """The same, but that what failed with another address or key need not wait."""
        return self if self.access in {"", fingerprint} else replace(self, next_try=None, failures=0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "access"}


class Standings:
    """Every project's `Standing`. Safe to share between threads; methods raise `Unavailable`."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._prefix = prefix
        self._script = client.register_script(_HOLD)

    def load(self, uid: str) -> Standing:
        """How it stands."""
        with answering(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key(uid))
            pipe.time()
            raw, (seconds, micros) = pipe.execute()
        values = {name.decode(): value.decode() for name, value in raw.items()}
        return _standing(values, seconds + micros / 1e6)

    def set(self, uid: str, **values: Value) -> None:
        """Set fields, or with None remove them, whoever holds the sync."""
        kept = {name: _text(value) for name, value in values.items() if _text(value)}
        removed = [name for name, value in values.items() if not _text(value)]
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            for name, value in kept.items():
                pipe.hset(self._key(uid), name, value)
            if removed:
                pipe.hdel(self._key(uid), *removed)
            pipe.execute()

    def take(self, uid: str, **values: Value) -> Held | None:
        """Hold it, so that nobody else syncs this project; None when somebody does."""
        token = uuid.uuid4().hex
        return Held(self, uid, token) if self.change("take", uid, token, values) else None

    def change(self, how: str, uid: str, token: str, values: Mapping[str, Value]) -> bool:
        """Take, keep or leave it; False when it is not that token's."""
        arguments: list[str | float] = [how, token, LEASE_S]
        for name, value in values.items():
            arguments += [name, _text(value)]
        with answering():
            return bool(self._script(keys=[self._key(uid)], args=arguments))

    def _key(self, uid: str) -> str:
        return f"{self._prefix}{{{uid}}}:sync"


class Held:
    """A held sync: a context manager that renews it from a thread, and gives it back at the end."""

    def __init__(self, standings: Standings, uid: str, token: str) -> None:
        self._standings = standings
        self._uid = uid
        self._token = token
        self._over = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name="sync-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._standings.change("leave", self._uid, self._token, {"phase": None, "message": None})

    def say(self, **values: Value) -> None:
        """Set fields. Raises `LeaseLost` when somebody else has taken over."""
        if self._lost or not self._standings.change("keep", self._uid, self._token, values):
            raise LeaseLost("another process syncs this project now")

    def _renew(self) -> None:
        while not self._over.wait(LEASE_S / 3):
            try:
                if not self._standings.change("keep", self._uid, self._token, {}):
                    self._lost = True
                    return
            except Unavailable:
                # The work itself will notice; a short absence of Redis does not end it.
                continue


class Pace:
    """Lets a call through at most every ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -seconds

    def __call__(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _text(value: Value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else repr(value)


def _standing(values: Mapping[str, str], now: float) -> Standing:
    found: dict[str, Any] = {"running": "token" in values and float(values["until"]) > now}
    for one in fields(Standing):
        text = values.get(one.name)
        if text is None or one.name == "running":
            continue
        kind = cast("str", one.type)
        if kind == "int":
            found[one.name] = int(float(text))
        elif kind == "bool":
            found[one.name] = True
        else:
            found[one.name] = text if kind == "str" else float(text)
    return Standing(**found)
