"""Redis: does it answer, does it keep what it acknowledged, does it throw anything away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError, ResponseError

from ml_backend.doctor.finding import Finding, note, ok, problem, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

SLOW_S = 0.1
SKEW_S = 5.0


def check(client: redis.Redis) -> Iterator[Finding]:
    """All about the server; one finding alone when it does not answer."""
    try:
        took = min(_ping(client) for _ in range(3))  # the first one connects
    except RedisError as error:
        yield problem(
            "redis",
            f"Redis does not answer: {error}",
            "start the backend (ml-backend start), name the folder that it runs in (--data-dir), or correct REDIS_URL",
        )
        return
    if took > SLOW_S:
        yield note("redis", f"Redis answers after {took:.2f} s", "annotators wait for it: bring it nearer")
    else:
        yield ok("redis", f"Redis answers after {took * 1000:.1f} ms")
    info = client.info()
    yield from _role(info)
    yield from _persistence(client, info)
    yield from _eviction(client)
    seconds, _ = client.time()
    yield skew("clock.redis", "Redis", time.time() - seconds)


def skew(name: str, whose: str, ahead_s: float) -> Finding:
    """How far another clock is from ours; ``ahead_s`` positive where ours is ahead."""
    if abs(ahead_s) > SKEW_S:
        return problem(
            name, f"this machine's clock and that of {whose} are {abs(ahead_s):.0f} s apart", "run NTP on both machines"
        )
    return ok(name, f"this machine and {whose} agree on the time")


def _ping(client: redis.Redis) -> float:
    began = time.monotonic()
    client.ping()
    return time.monotonic() - began


def _role(info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") not in {"master", None}:
        yield problem("redis.role", "REDIS_URL leads to a replica, which takes no writes", "name the primary")


def _persistence(client: redis.Redis, info: dict[str, Any]) -> Iterator[Finding]:
    wanted = "set appendonly yes and appendfsync always (or everysec, which can lose the last second or two)"
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield problem("redis.persistent", "Redis could not write its files", "look at its log and its disk")
    elif not info.get("aof_enabled"):
        yield problem("redis.persistent", "its append-only file is off: a crash loses acknowledged events", wanted)
    else:
        mode = _config(client, "appendfsync")
        if mode is None:
            yield unknown("redis.persistent", "append-only file on; how often it is flushed is not told", wanted)
        elif mode == "always":
            yield ok("redis.persistent", "append-only file, every acknowledged write is on the disk")
        elif mode == "everysec":
            yield note("redis.persistent", "append-only file, flushed every second: a crash can lose the last", wanted)
        else:
            yield problem("redis.persistent", f"append-only file, but appendfsync is {mode}", wanted)


def _eviction(client: redis.Redis) -> Iterator[Finding]:
    policy, memory = _config(client, "maxmemory-policy"), _config(client, "maxmemory")
    if policy is None:
        yield unknown("redis.eviction", "whether it throws keys away is not told", "set maxmemory-policy noeviction")
    elif policy == "noeviction":
        yield ok("redis.eviction", "it throws nothing away")
    elif memory == "0":
        yield note("redis.eviction", f"maxmemory-policy is {policy}, with no limit yet", "set it to noeviction")
    else:
        yield problem(
            "redis.eviction", f"maxmemory-policy {policy} throws training data away", "set maxmemory-policy noeviction"
        )


def _config(client: redis.Redis, name: str) -> str | None:
    """A setting; None where the server keeps them to itself, as hosted ones do."""
    try:
        found = cast("dict[Any, Any]", client.config_get(name))
    except ResponseError:
        return None
    texts = {_text(key): _text(value) for key, value in found.items()}
    return texts.get(name)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
