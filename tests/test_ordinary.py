"""The short way of an ordinary event through HTTP: what gunicorn would have made of it, or nothing."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from ml_backend.web import ordinary
from ml_backend.web.client_socket import Ahead, ClientSocket

BODY = b'{"action":"ANNOTATION_CREATED"}'
# As requests, and so Label Studio, writes it.
USUAL = {
    "Host": "127.0.0.1:9090",
    "User-Agent": "python-requests/2.32.5",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Length": str(len(BODY)),
    "Content-Type": "application/json",
    "Authorization": "Basic bGFiZWwtc3R1ZGlvOmE=",
}
_CONFIG = Config()


def head(fields: list[tuple[str, str]], line: str = "POST /webhook HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1")


def usual(**changed: str | None) -> list[tuple[str, str]]:
    """The usual fields with some changed, added, or (None) left out; underscores stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in changed.items()}
    return [(name, value) for name, value in {**USUAL, **named}.items() if value is not None]


def by_gunicorn(sent: bytes) -> tuple[dict[str, Any], bytes] | None:
    """(environ, body) that gunicorn makes of a request; None when it refuses it or the connection ends with it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        try:
            request = next(RequestParser(_CONFIG, theirs, ("127.0.0.1", 5)))
            if request.should_close():
                return None
            _, environ = wsgi.create(request, theirs, ("127.0.0.1", 5), ("127.0.0.1", 9090), _CONFIG)
            return environ, environ["wsgi.input"].read()
        except Exception:
            return None


NAMES = st.one_of(
    st.sampled_from(
        [*USUAL, "Transfer-Encoding", "Expect", "Upgrade", "TE", "X-Forwarded-Proto", "X_Under", "content-length"]
    ),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=8),
)
VALUES = st.one_of(
    st.sampled_from([*USUAL.values(), "chunked", "100-continue", "close", "Keep-Alive", "https", "+31", "031", "0x1f"]),
    st.text(st.characters(codec="latin-1"), max_size=12),
)
LINES = st.one_of(
    st.sampled_from(["POST /webhook HTTP/1.1", "POST /predict HTTP/1.1"]),
    st.sampled_from(
        ["POST /webhook HTTP/1.0", "GET /predict HTTP/1.1", "POST /webhook?a HTTP/1.1", "POST  /predict HTTP/1.1"]
    ),
)


@given(
    line=LINES,
    kept=st.sets(st.sampled_from(list(USUAL))),
    more=st.lists(st.tuples(NAMES, VALUES), max_size=3),
    at=st.integers(0, 10),
)
@example(line="POST /webhook HTTP/1.1", kept=set(USUAL), more=[], at=0)
@example(line="POST /webhook HTTP/1.1", kept=set(USUAL), more=[("A", "b\r\nContent-Length: 3")], at=0)
def test_a_head_means_what_gunicorn_makes_of_it_or_is_left_to_gunicorn(line, kept, more, at):
    fields = [(name, value) for name, value in USUAL.items() if name in kept or len(kept) % 2]
    fields[at:at] = more
    sent = head(fields, line)
    found = ordinary.read(sent, len(BODY))
    if found is None:
        return
    theirs = by_gunicorn(sent + BODY)
    assert theirs is not None
    environ, body = theirs
    assert body == BODY
    assert found == {
        name: value
        for name, value in environ.items()
        if name.isupper()
        and name not in {"SERVER_SOFTWARE", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT"}
    }


@pytest.mark.parametrize("path", ["/webhook", "/predict"])
def test_what_label_studio_sends_while_an_annotator_waits_takes_the_short_way(path):
    found = ordinary.read(head(usual(), f"POST {path} HTTP/1.1"), len(BODY))
    assert found is not None
    assert found["PATH_INFO"] == path
    assert (found["CONTENT_TYPE"], found["HTTP_AUTHORIZATION"]) == ("application/json", USUAL["Authorization"])


@pytest.mark.parametrize(
    "fields",
    [
        usual(Content_Length=None),
        usual(Content_Length="30"),
        usual(Content_Length="031"),
        usual(Content_Length="9" * 20),
        usual(Host=None),
        usual(Connection="close"),
        usual(Transfer_Encoding="chunked"),
        usual(Expect="100-continue"),
        usual(X_Forwarded_Proto="https"),
        usual(X_Long="x" * 3000),
        [*usual(), ("host", "elsewhere")],
        [*usual(), ("X_Refit-Secret", "guess")],
        [*usual(), ("X-Blank ", "before the colon")],
    ],
)
def test_what_is_not_ordinary_is_left_to_gunicorn(fields):
    assert ordinary.read(head(fields), len(BODY)) is None


def test_an_answer_tells_its_length_and_what_becomes_of_the_connection():
    def app(environ, start_response):
        assert environ["wsgi.input"].read() == BODY
        start_response("401 Unauthorized", [("Content-Length", "7"), ("X-A", "b")])
        return [b"abc", b"defg"]

    writer = ordinary.Writer("somebody")
    said, _, body = writer.answer(app, {}, BODY, keep=True).partition(b"\r\n\r\n")
    lines = said.decode().split("\r\n")
    assert lines[:2] == ["HTTP/1.1 401 Unauthorized", "Server: somebody"]
    assert lines[3:] == ["Connection: keep-alive", "X-A: b", "Content-Length: 7"]
    assert body == b"abcdefg"
    assert b"Connection: close" in writer.answer(app, {}, BODY, keep=False)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_an_answer_whose_header_has_two_lines_is_not_sent(value):
    def app(environ, start_response):
        start_response("200 OK", [("X-A", value)])
        return []

    with pytest.raises(ValueError, match="more than one line"):
        ordinary.Writer("somebody").answer(app, {}, b"", keep=True)


def test_an_answer_is_closed_also_when_it_breaks_off():
    class Broken:
        closed = False

        def __iter__(self):
            raise OSError("broken")

        def close(self):
            self.closed = True

    broken = Broken()
    with pytest.raises(OSError, match="broken"):
        ordinary.Writer("somebody").answer(lambda *_: broken, {}, b"", keep=True)
    assert broken.closed


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    client = ClientSocket(theirs)
    with ours, contextlib.closing(client):
        yield ours, client


def test_a_request_is_whole_once_its_last_byte_is_here_and_until_it_was_read(pair):
    ours, client = pair
    sent = head(usual())
    ours.sendall(sent + BODY[:-1])
    assert client.read_ahead() is Ahead.MORE
    assert client.whole() is None
    ours.sendall(BODY[-1:] + b"POST")
    assert client.read_ahead() is Ahead.WHOLE
    assert client.whole() == (sent, BODY)
    client.taken()
    assert client.whole() is None
    assert client.unserved, "the beginning of the next request"
    assert client.recv(100) == b"POST"


def test_a_request_that_gunicorn_began_to_read_is_not_whole(pair):
    ours, client = pair
    ours.sendall(head(usual()) + BODY)
    assert client.read_ahead() is Ahead.WHOLE
    client.recv(1)
    assert client.whole() is None
