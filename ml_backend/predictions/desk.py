"""The desk between web processes and predict workers: questions and answers in Redis, as JSON, bounded.

A question's payload expires with the time that is left for it, so no clock but Redis's is asked and nothing is answered
in vain. Its id lies in exactly one list: of those that wait, or of those that one worker has taken.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal, cast

from ml_backend.predictions.presence import SILENT_S
from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    from collections.abc import Collection

    import redis

WAITING_LIMIT = 128
"""Questions that may wait, of all web processes; each is a few megabytes at most."""
_ANSWER_KEPT_MS = 30_000
_TAKEN_KEPT_S = 24 * 3600

Fate = Literal["waits", "taken", "lost", "nobody"]

# KEYS 1 mlb:predict:asked  2 mlb:predict:ask:<id>   ARGV 1 id  2 payload  3 milliseconds that are left  4 limit
# -> 0 when too many wait
_PUT = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
"""

# KEYS 1 mlb:predict:asked  2 mlb:web   ARGV 1 id  2 seconds of silence  3 mlb:predict:taken:
_FATE = """
local time = redis.call('TIME')
local since = string.format('%.3f', time[1] + time[2] / 1000000 - ARGV[2])
local alive = redis.call('ZRANGEBYSCORE', KEYS[2], since, '+inf')
if redis.call('LPOS', KEYS[1], ARGV[1]) then return #alive > 0 and 'waits' or 'nobody' end
for _, process in ipairs(alive) do
  if redis.call('LPOS', ARGV[3] .. process, ARGV[1]) then return 'taken' end
end
return 'lost'
"""


class Desk:
    """Both sides of the desk. Every method raises `Unavailable` when Redis is away.

    The client's time-outs must be longer than the longest wait that is asked for; ``quick`` is asked what is answered
    at once, so that a Redis that stands still is found out before anybody waits for an answer.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "mlb:",
        *,
        quick: redis.Redis | None = None,
        limit: int = WAITING_LIMIT,
    ) -> None:
        self._redis = client
        self._quick = client if quick is None else quick
        self._prefix = prefix
        self._limit = limit
        self._asked = f"{prefix}predict:asked"
        self._put = self._quick.register_script(_PUT)
        self._fate = self._quick.register_script(_FATE)

    def close(self) -> None:
        """Close the connections on which is waited; ``quick`` is its owner's to close."""
        self._redis.close()

    def _key(self, what: str, name: str) -> str:
        return f"{self._prefix}predict:{what}:{name}"

    # The web's side

    def put(self, payload: bytes, left_s: float) -> str | None:
        """Ask something that must be answered within ``left_s`` seconds; its id, or None when too many wait."""
        name = secrets.token_hex(12)
        left_ms = max(1, int(left_s * 1000))
        with answering():
            taken = self._put(keys=[self._asked, self._key("ask", name)], args=[name, payload, left_ms, self._limit])
        return name if taken else None

    def wait(self, names: Collection[str], seconds: float) -> tuple[str, bytes] | None:
        """The next answer to any of these questions: (its id, the answer); None when none came in so many seconds."""
        keys = {self._key("answer", name): name for name in names}
        with answering():
            found = cast("tuple[bytes, bytes] | None", self._redis.blpop(list(keys), max(0.01, seconds)))
        return None if found is None else (keys[found[0].decode()], found[1])

    def fate(self, name: str) -> Fate:
        """What has become of a question: it waits (or waits and nobody is there), is taken, or its taker is gone.

        An answered one counts as lost: look for an answer afterwards.
        """
        with answering():
            answer = self._fate(keys=[self._asked, f"{self._prefix}web"], args=[name, SILENT_S, self._key("taken", "")])
        return cast("Fate", answer.decode() if isinstance(answer, bytes) else answer)

    def give_up(self, names: Collection[str]) -> None:
        """Nobody waits for these any more."""
        if not names:
            return
        with answering(), self._quick.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lrem(self._asked, 1, name)
                pipe.delete(self._key("ask", name), self._key("answer", name))
            pipe.execute()

    # The worker's side

    def take(self, process: str, seconds: int) -> tuple[str, bytes, float] | None:
        """The next question: (its id, its payload, the seconds left for it); None when there is none for that long."""
        taken = self._key("taken", process)
        with answering():
            raw = self._redis.blmove(self._asked, taken, seconds, "LEFT", "RIGHT")
            if raw is None:
                return None
            name = cast("bytes", raw).decode()
            key = self._key("ask", name)
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.expire(taken, _TAKEN_KEPT_S)
                pipe.pttl(key)
                pipe.getdel(key)
                _, left_ms, payload = pipe.execute()
            if payload is None:  # its time was up before anybody came to it
                self._redis.lrem(taken, 1, name)
                return None
        return name, payload, max(0, left_ms) / 1000

    def answer(self, process: str, name: str, payload: bytes) -> None:
        """Answer a question that was taken."""
        key = self._key("answer", name)
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(key, payload)
            pipe.pexpire(key, _ANSWER_KEPT_MS)
            pipe.lrem(self._key("taken", process), 1, name)
            pipe.execute()

    def leave(self, process: str) -> None:
        """A worker ends: what it took and has not answered is lost."""
        with answering():
            self._redis.delete(self._key("taken", process))
