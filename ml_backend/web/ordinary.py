"""How an ordinary event, or question for predictions, goes through HTTP: its head is read at a glance.

Gunicorn's parser and writer know all of HTTP, and take a fifth of the time of an event, for which an annotator waits
(fact 1). What is not exactly as Label Studio writes it is left to them: nothing here is more lenient than they are.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import WSGIApplication

# No blank before or after a value, no character that is not printed, nothing near gunicorn's limits.
_FIELD = r"[A-Za-z][A-Za-z0-9-]{0,60}: [!-~](?:[ -~]{0,2000}[!-~])?\r\n"
_HEAD = re.compile(f"POST (/webhook|/predict) HTTP/1\\.1\r\n((?:{_FIELD}){{1,50}})\r\n".encode())
_NEEDED = frozenset({"HTTP_HOST", "HTTP_CONTENT_LENGTH"})
_NOT_ORDINARY = frozenset(
    {
        # They say how the bytes are to be read, or what becomes of the connection.
        *("HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "HTTP_UPGRADE", "HTTP_TRAILER", "HTTP_TE", "HTTP_HTTP2_SETTINGS"),
        # Gunicorn looks at who sends these.
        *("HTTP_X_FORWARDED_PROTOCOL", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_SSL"),
    }
)


def read(head: bytes, length: int) -> dict[str, str] | None:
    """The variables that WSGI makes of an ordinary request's head; None for every other head.

    ``length``: bytes of the body that came with it, which must be what the head says.
    """
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    fields = found[2][:-2].decode("ascii").split("\r\n")
    variables: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition(": ")
        variables["HTTP_" + name.upper().replace("-", "_")] = value
    if (
        len(variables) != len(fields)  # one came twice
        or not variables.keys() >= _NEEDED
        or not variables.keys().isdisjoint(_NOT_ORDINARY)
        or variables.get("HTTP_CONNECTION", "keep-alive").lower() != "keep-alive"
        or variables["HTTP_CONTENT_LENGTH"] != str(length)
    ):
        return None
    variables["CONTENT_LENGTH"] = variables.pop("HTTP_CONTENT_LENGTH")
    if (content_type := variables.pop("HTTP_CONTENT_TYPE", None)) is not None:
        variables["CONTENT_TYPE"] = content_type
    path = found[1].decode("ascii")
    variables.update(REQUEST_METHOD="POST", PATH_INFO=path, RAW_URI=path, SERVER_PROTOCOL="HTTP/1.1")
    variables.update(QUERY_STRING="", SCRIPT_NAME="")
    return variables


class Writer:
    """Calls a WSGI application and writes what it answers. Safe to share between threads."""

    def __init__(self, server: str) -> None:
        """``server`` is what the header of that name says."""
        self._server = server
        self._date = (0, "")

    def answer(self, app: WSGIApplication, environ: dict[str, Any], body: bytes, *, keep: bool) -> bytes:
        """The whole answer, head and body; ``keep``: whether the connection is open for the client's next request.

        Raises what the application raises, ``ValueError`` for a header of two lines.
        """
        environ["wsgi.input"] = BytesIO(body)
        said: list[tuple[str, list[tuple[str, str]]]] = []
        pieces: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None, /
        ) -> Callable[[bytes], object]:
            said[:] = [(status, headers)]
            return pieces.append

        answered = app(environ, start_response)
        try:
            pieces.extend(answered)
        finally:
            _close(answered)
        status, headers = said[0]
        whole = b"".join(pieces)
        fields = [
            f"HTTP/1.1 {status}",
            f"Server: {self._server}",
            f"Date: {self._now()}",
            "Connection: keep-alive" if keep else "Connection: close",
            *(f"{name}: {value}" for name, value in headers if name.lower() != "content-length"),
            f"Content-Length: {len(whole)}",
        ]
        head = "\r\n".join(fields)
        if head.count("\n") != len(fields) - 1 or head.count("\r") != len(fields) - 1:
            raise ValueError("a header of the answer has more than one line")
        return f"{head}\r\n\r\n".encode("latin-1") + whole

    def _now(self) -> str:
        now = int(time.time())
        second, text = self._date
        if second != now:
            text = formatdate(now, usegmt=True)
            self._date = (now, text)
        return text


def _close(answered: Iterable[bytes]) -> None:
    if (close := getattr(answered, "close", None)) is not None:
        close()
