"""Throws away what is kept of a project that was deleted long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ml_backend.redis_errors import answering
from ml_backend.state.keys import Keys
from ml_backend.uids import id_of, require_uid

if TYPE_CHECKING:
    import redis

# KEYS 1 P:meta  2 <prefix>uids  3 <prefix>due  4 <prefix>serving  5… the project's keys that go
# ARGV 1 uid  2 project id  3 now (s)  4 deleted since at least (s)
# Returns 1, or 0 when the project is not deleted, or not that long: it may have been connected again meanwhile.
# In one step: what comes while it goes, from a webhook that nobody removed, is of a project that nothing is known of.
_PURGE = """
local deleted = tonumber(redis.call('HGET', KEYS[1], 'deleted_at'))
if not deleted or deleted > tonumber(ARGV[3]) - tonumber(ARGV[4]) then return 0 end
local left = {}
for uid in string.gmatch(redis.call('HGET', KEYS[2], ARGV[2]) or '', '[^,]+') do
  if uid ~= ARGV[1] then left[#left + 1] = uid end
end
if #left == 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], table.concat(left, ','))
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
for at = 5, #KEYS do redis.call('UNLINK', KEYS[at]) end
return 1
"""


class Purge:
    """Purges projects. Their numbers of versions stay, so that none is ever given twice."""

    kept = frozenset({"number"})

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._keys = Keys(prefix)
        self._serving = f"{prefix}serving"
        self._script = client.register_script(_PURGE)

    def __call__(self, uid: str, now: float, after_s: float) -> bool:
        """Throw it away if it was deleted at least ``after_s`` ago; False when it was not. Raises `Unavailable`."""
        require_uid(uid)
        keys = [self._keys.of(uid, "meta"), self._keys.uids, self._keys.due, self._serving]
        with answering():
            deleted = cast("bytes | None", self._redis.hget(keys[0], "deleted_at"))
            if deleted is None or float(deleted) > now - after_s:
                return False  # nor are its keys looked for; the script looks once more
            found = (key.decode() for key in self._redis.scan_iter(match=self._keys.of(uid, "*"), count=1000))
            going = {key for key in found if key.rpartition(":")[2] not in self.kept}
            return bool(self._script(keys=[*keys, *going], args=[uid, id_of(uid), repr(now), repr(after_s)]))
