"""Logs: what libraries say of requests at the level DEBUG stays out, since it holds what is secret."""

from __future__ import annotations

import subprocess
import sys

from tests.loopback import Answer, Loopback

ASKS = """
import logging, sys
import httpx, urllib3
from ml_backend.logs import set_up_logs
set_up_logs("DEBUG")
with httpx.Client(trust_env=False) as client:
    client.get(sys.argv[1] + "/file?signature=planted-1", headers={"Authorization": "Token planted-2"})
urllib3.PoolManager().request("GET", sys.argv[1] + "/file?signature=planted-1", redirect=False)
for name in ("botocore.auth", "aiobotocore.endpoint"):
    logging.getLogger(name).debug("x-amz-security-token:planted-4")
logging.getLogger("a.model").debug("a model may say so")
"""


def test_addresses_headers_and_tokens_of_requests_are_not_logged() -> None:
    with Loopback(
        lambda _: Answer(status=302, headers={"Location": "https://bucket.example/x?sig=planted-3"})
    ) as server:
        asking = [sys.executable, "-c", ASKS, server.url]
        ran = subprocess.run(asking, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "a model may say so" in ran.stderr
    assert "planted" not in ran.stderr
