"""An S3 server on loopback (moto): nothing of it outlives the test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from tests.running import free_port, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Its address, once it answers."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(process, lambda: _answers(url), 60, "the S3 server")
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
