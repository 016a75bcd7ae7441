"""The short way of scripts to Redis gives what redis-py's own way gives, through restarts too."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ml_backend.scripting import ScriptingRedis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opened(socket: Path, timeout: float) -> ScriptingRedis:
    return ScriptingRedis(unix_socket_path=str(socket), socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def client(redis_socket: Path) -> Iterator[ScriptingRedis]:
    with opened(redis_socket, 5) as client:
        client.script_flush()
        yield client


def test_a_script_that_redis_does_not_know_yet_is_loaded(client: ScriptingRedis) -> None:
    script = client.register_script("return {KEYS[1], ARGV[1], ARGV[2], 7}")
    assert script(keys=["k"], args=[b"\x00\xff", 3]) == [b"k", b"\x00\xff", b"3", 7]


def test_an_error_of_the_script_is_raised_and_the_connection_goes_on(client: ScriptingRedis) -> None:
    with pytest.raises(redis.ResponseError, match="on purpose"):
        client.register_script("return redis.error_reply('on purpose')")(keys=[], args=[])
    assert client.register_script("return 1")(keys=[], args=[]) == 1


def test_a_connection_that_redis_closed_is_made_anew(client: ScriptingRedis) -> None:
    script = client.register_script("return 1")
    script(keys=[], args=[])
    with redis.Redis(unix_socket_path=client.connection_pool.connection_kwargs["path"]) as other:
        assert other.client_kill_filter(_type="normal", skipme=True) >= 1
    assert script(keys=[], args=[]) == 1


def test_a_script_that_takes_too_long_is_a_timeout_and_its_answer_reaches_nobody_else(
    client: ScriptingRedis, redis_socket: Path
) -> None:
    client.config_set("busy-reply-threshold", 100)
    with opened(redis_socket, 2) as impatient:
        slow = impatient.register_script("for i = 1, 1e9 do if redis.call('GET', 'go') then break end end return 'l'")
        with pytest.raises(redis.TimeoutError):
            slow(keys=[], args=[])
        client.script_kill()
        assert impatient.register_script("return 'mine'")(keys=[], args=[]) == b"mine"


def test_threads_get_their_own_answers(client: ScriptingRedis) -> None:
    echo = client.register_script("return ARGV[1]")
    wrong: list[object] = []

    def work(name: int) -> None:
        for number in range(200):
            said = f"{name}-{number}".encode()
            if (answer := echo(keys=[], args=[said])) != said:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
