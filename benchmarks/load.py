"""Load on a web server: wrk where it is installed, else a client of our own, which takes more of the machine itself."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.common import PASSWORD, USER

AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

_SCRIPT = """
local template, number = BODY, FROM
local pieces, at = {}, 1
while true do
  local from, to = string.find(template, '"@N@"', at, true)
  pieces[#pieces + 1] = string.sub(template, at, from and from - 1)
  if not from then break end
  at = to + 1
end
local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "AUTHORIZATION" }
local fixed
function request()
  if #pieces == 1 then
    -- Not before the first request: until then wrk does not know the host.
    fixed = fixed or wrk.format("METHOD", nil, headers, template)
    return fixed
  end
  number = number + 1
  return wrk.format("METHOD", nil, headers, table.concat(pieces, tostring(number)))
end
"""


@dataclass(frozen=True)
class Load:
    """What came of it. ``failed`` counts answers that are not 2xx or 3xx, and broken connections."""

    per_second: float
    median_ms: float
    p99_ms: float
    requests: int
    failed: int


@dataclass(frozen=True)
class Request:
    """What is sent over and over. ``"@N@"`` in the body is replaced by a number that grows with each request."""

    method: str
    path: str
    body: bytes = b""


def numbered(body: dict[str, Any], *paths: str) -> bytes:
    """The body as JSON, with ``"@N@"`` at each dotted path."""
    body = json.loads(json.dumps(body))
    for path in paths:
        *above, last = path.split(".")
        place = body
        for name in above:
            place = place[name]
        place[last] = "@N@"
    return json.dumps(body).encode()


def load(port: int, request: Request, seconds: float, *, connections: int = 4, start: int = 0) -> Load:
    """Send the request for some seconds, each connection as soon as it has its answer; raises when any failed."""
    # wrk measures whole seconds only.
    with_wrk = shutil.which("wrk") is not None and seconds >= 1
    found = (_wrk if with_wrk else _own)(port, request, seconds, connections, start)
    if found.failed or not found.requests:
        raise RuntimeError(f"{request.method} {request.path}: {found.failed} of {found.requests} requests failed")
    return found


def ask(
    port: int, method: str, path: str, body: bytes | dict[str, Any] | None = None, timeout: float = 120
) -> tuple[int, Any]:
    """One request on a connection of its own: (status, JSON or None)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, {"Content-Type": "application/json", "Authorization": AUTHORIZATION})
        answer = connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said) if said[:1] in (b"{", b"[") else None
    finally:
        connection.close()


def _wrk(port: int, request: Request, seconds: float, connections: int, start: int) -> Load:
    script = _SCRIPT.replace("AUTHORIZATION", AUTHORIZATION).replace("METHOD", request.method)
    script = script.replace("FROM", str(start))
    level = "=" * 5
    script = script.replace("BODY", f"[{level}[{request.body.decode()}]{level}]")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "request.lua"
        path.write_text(script)
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "20s"]
        argv += ["-s", str(path), f"http://127.0.0.1:{port}{request.path}"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    requests = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    for numbers in re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said):
        failed += sum(map(int, numbers))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    return Load(rate, _percentile(said, 50), _percentile(said, 99), requests, failed)


def _percentile(said: str, which: int) -> float:
    value, unit = re.search(rf"\n\s+{which}%\s+([\d.]+)(us|ms|s|m)", said).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def _own(port: int, request: Request, seconds: float, connections: int, start: int) -> Load:
    times: list[float] = []
    failed = [0]
    numbers = count(start + 1)
    until = time.monotonic() + seconds

    def client() -> None:
        connection: socket.socket | None = None
        while time.monotonic() < until:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), 20)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            body = request.body.replace(b'"@N@"', str(next(numbers)).encode())
            head = f"{request.method} {request.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {AUTHORIZATION}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            began = time.perf_counter()
            try:
                connection.sendall(head.encode() + body)
                with http.client.HTTPResponse(connection) as answer:
                    answer.begin()
                    answer.read()
                    status, over = answer.status, answer.will_close
            except (OSError, http.client.HTTPException):
                status, over = 0, True
            if over:  # Flask's development server closes after each answer
                connection.close()
                connection = None
            times.append(time.perf_counter() - began)
            failed[0] += not 200 <= status < 400
        if connection is not None:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    times.sort()
    at = [1000 * times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.99)] if times else [0.0, 0.0]
    return Load(len(times) / took, at[0], at[1], len(times), failed[0])
