"""How each project's refresh stands, in Redis: one worker at a time, progress, cancellation, and what a crash left.

``P:refresh`` (hash) is the standing, ``P:refresh-marks`` (hash) since when each of our versions is out of use, and
``P:refresh-lock`` (string) the token of the worker that is at it; it expires unless every write renews it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ml_backend.errors import LeaseLost, RunCancelled
from ml_backend.redis_errors import answering
from ml_backend.refresh.planning import Standing
from ml_backend.state.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

    from ml_backend.refresh.planning import Status

LOCK_S = 60.0
"""How long a worker may be silent. It never stores anything without renewing the lock before."""

# KEYS 1 P:refresh-lock  2 P:refresh   ARGV 1 token  2 milliseconds  then fields and values; a value of '' removes
# -> 0 when the lock is lost (nothing is written), 2 when somebody asked to cancel, else 1
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for index = 3, #ARGV, 2 do
  if ARGV[index + 1] == '' then redis.call('HDEL', KEYS[2], ARGV[index])
  else redis.call('HSET', KEYS[2], ARGV[index], ARGV[index + 1]) end
end
return redis.call('HEXISTS', KEYS[2], 'cancel') + 1
"""

# KEYS 1 P:refresh-lock  2 P:refresh   ARGV 1 version  2 trigger
_ASKED = """
if redis.call('EXISTS', KEYS[1]) == 1 then return end
redis.call('HSET', KEYS[2], 'status', 'waiting', 'version', ARGV[1], 'trigger', ARGV[2])
redis.call('HDEL', KEYS[2], 'retry_at')
"""

# KEYS 1 P:refresh-lock   ARGV 1 token
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

# KEYS 1 P:refresh   -> 1 when there was something to cancel
_CANCEL = """
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'running' then redis.call('HSET', KEYS[1], 'cancel', '1') return 1 end
if status ~= 'waiting' and status ~= 'failed' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'cancelled', 'reason', 'cancelled')
redis.call('HDEL', KEYS[1], 'retry_at')
return 1
"""

Value = str | float | None


@dataclass(frozen=True, slots=True)
class Hold:
    """The right to refresh one project's predictions, until it is released or not renewed in time."""

    uid: str
    token: str


class Records:
    """The standings of all projects. Every method raises `Unavailable` when Redis does not answer."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:", *, lock_s: float = LOCK_S) -> None:
        self._redis = client
        self._keys = Keys(prefix)
        self._lock_ms = int(lock_s * 1000)
        self._write = client.register_script(_WRITE)
        self._asked = client.register_script(_ASKED)
        self._release = client.register_script(_RELEASE)
        self._cancel = client.register_script(_CANCEL)

    def read(self, uid: str) -> Standing:
        """How it stands; all defaults before the first refresh."""
        key = self._keys.of
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key(uid, "refresh"))
            pipe.hgetall(key(uid, "refresh-marks"))
            pipe.exists(key(uid, "refresh-lock"))
            fields, marks, held = pipe.execute()
        return _standing(_text(fields), {name: float(at) for name, at in _text(marks).items()}, held=bool(held))

    def asked(self, uid: str, version: str, trigger: str) -> None:
        """Somebody asked for one; not written while a worker is at it."""
        with answering():
            self._asked(
                keys=[self._keys.of(uid, "refresh-lock"), self._keys.of(uid, "refresh")], args=[version, trigger]
            )

    def off(self, uid: str, version: str, reason: str) -> None:
        """None may be made for that version, and why."""
        with answering():
            self._redis.hset(
                self._keys.of(uid, "refresh"), mapping={"status": "off", "version": version, "reason": reason}
            )

    def cancel(self, uid: str) -> bool:
        """Cancel the refresh that waits or runs; a running one stops before its next batch. False: there is none."""
        with answering():
            return bool(self._cancel(keys=[self._keys.of(uid, "refresh")]))

    def take(self, uid: str) -> Hold | None:
        """Begin to work on a project; None while another worker does."""
        token = secrets.token_hex(8)
        with answering():
            taken = self._redis.set(self._keys.of(uid, "refresh-lock"), token, nx=True, px=self._lock_ms)
        return Hold(uid, token) if taken else None

    def release(self, hold: Hold) -> None:
        """Let others work on it."""
        with answering():
            self._release(keys=[self._keys.of(hold.uid, "refresh-lock")], args=[hold.token])

    def write(self, hold: Hold, **fields: Value) -> None:
        """Renew the hold and set fields (None removes one). Raises `LeaseLost`, and `RunCancelled` when cancelled."""
        if self._put(hold, fields) == 2:
            raise RunCancelled("cancelled")

    def end(self, hold: Hold, status: Status, reason: str, **fields: Value) -> None:
        """Write how it ended. Raises `LeaseLost`."""
        self._put(hold, {"status": status, "reason": reason, "phase": None, "cancel": None, **fields})

    def marked(self, uid: str, since: Mapping[str, float], *, in_use: str) -> None:
        """These versions are out of use since then, unless it is known since when; ``in_use`` is not."""
        key = self._keys.of(uid, "refresh-marks")
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            for name, at in since.items():
                pipe.hsetnx(key, name, repr(at))
            pipe.hdel(key, in_use)
            pipe.execute()

    def forget(self, uid: str, version: str) -> None:
        """That version's predictions are gone."""
        with answering():
            self._redis.hdel(self._keys.of(uid, "refresh-marks"), version)

    def _put(self, hold: Hold, fields: Mapping[str, Value]) -> int:
        arguments: list[str | int] = [hold.token, self._lock_ms]
        for name, value in fields.items():
            arguments += [name, "" if value is None else value if isinstance(value, str) else repr(value)]
        keys = [self._keys.of(hold.uid, "refresh-lock"), self._keys.of(hold.uid, "refresh")]
        with answering():
            answer = cast("int", self._write(keys=keys, args=arguments))
        if not answer:
            raise LeaseLost("another worker refreshes the predictions of this project now")
        return answer


def _standing(fields: Mapping[str, str], marks: Mapping[str, float], *, held: bool) -> Standing:
    def moment(name: str) -> float | None:
        return float(fields[name]) if name in fields else None

    newest = fields.get("newest_us")
    return Standing(
        status=cast("Status", fields.get("status", "")),
        version=fields.get("version", ""),
        trigger=fields.get("trigger", ""),
        phase=fields.get("phase", ""),
        reason=fields.get("reason", ""),
        done=int(fields.get("done", 0)),
        total=int(fields.get("total", 0)),
        began=moment("began"),
        ended=moment("ended"),
        failures=int(fields.get("failures", 0)),
        retry_at=moment("retry_at"),
        cancelling="cancel" in fields,
        covers=fields.get("covers", ""),
        newest_us=int(newest) if newest else None,
        tasks_at=moment("tasks_at"),
        task_number=int(fields.get("task_number", 0)),
        sent_at=moment("sent_at"),
        sent=tuple(int(one) for one in fields["sent"].split(",")) if "sent" in fields else (),
        hidden="hidden" in fields,
        marks=marks,
        held=held,
    )


def _text(values: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in values.items()}
