"""Which projects the clock must look at, and when: any number of clocks may ask at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    import redis

BEAT_S = 5.0
CLAIM_S = 30.0
"""A clock that dies after its claim delays the project by this much, where nothing shorter is asked for."""

FARTHEST_S = 600.0
"""How often a project is looked at when nothing asks for it."""
_SKEW_S = 60.0

# KEYS 1 <prefix>due; ARGV 1 now, 2 claim until, 3 how many, 4 later than any time that a right clock sets.
# Returns the uids whose time has come, pushed to the claim. A time beyond ARGV 4 is of a clock that was ahead.
_CLAIM = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
if #due == 0 then due = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[4], '+inf', 'LIMIT', 0, ARGV[3]) end
for _, uid in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], uid) end
return due
"""

# KEYS 1 <prefix>due; ARGV 1 uid, 2 the claim, 3 when to look next. An earlier time that somebody set meanwhile stays.
_SETTLE = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
else
  redis.call('ZADD', KEYS[1], 'LT', ARGV[3], ARGV[1])
end
return 1
"""


class DueList:
    """The sorted set ``<prefix>due``: uid by the time (seconds) when it must be looked at again."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:", claim_s: float = CLAIM_S) -> None:
        self.claim_s = claim_s
        self._key = f"{prefix}due"
        self._prefix = prefix
        self._redis = client
        self._claim = client.register_script(_CLAIM)
        self._settle = client.register_script(_SETTLE)

    def beat(self) -> None:
        """A clock lives. To be said every `BEAT_S` seconds."""
        with answering():
            self._redis.set(f"{self._prefix}clock", b"1", ex=int(3 * BEAT_S))

    def alive(self) -> bool:
        """Whether a clock said so lately."""
        with answering():
            return bool(self._redis.exists(f"{self._prefix}clock"))

    def ask(self, uid: str, at: float) -> None:
        """Look at the project at ``at``, or earlier if that was asked for already."""
        with answering():
            self._redis.zadd(self._key, {uid: at}, lt=True)

    def claim(self, now: float, limit: int = 100) -> tuple[list[str], float]:
        """(uids whose time has come, the claim to settle them with)."""
        claim = now + self.claim_s
        farthest = now + FARTHEST_S + _SKEW_S
        with answering():
            found = cast(
                "list[bytes]", self._claim(keys=[self._key], args=[repr(now), repr(claim), limit, repr(farthest)])
            )
        return [uid.decode() for uid in found], claim

    def settle(self, uid: str, claim: float, look_at: float) -> None:
        """Look at the project again at ``look_at``, or earlier if something asked for that since the claim."""
        with answering():
            self._settle(keys=[self._key], args=[uid, repr(claim), repr(look_at)])
