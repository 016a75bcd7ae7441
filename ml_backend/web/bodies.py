"""Reading request bodies: the limit before the reading, one content type, strict JSON, an object.

An import of thousands of tasks brings megabytes of which an event needs their ids and dates: making objects of all the
rest would take five times as long, and whoever imports waits for it (fact 1).
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

DEEPEST = 200
"""Nesting that every part of the way can carry: orjson reads 1,024 levels and writes 254."""

_JSON = "application/json"
_LARGE = 256 * 1024
_LONGEST_LENGTH = 20  # digits
_HEAD = 100  # bytes; Label Studio writes the action first


class _Task(msgspec.Struct, gc=False):
    id: int
    updated_at: str


class _Import(msgspec.Struct):
    action: str
    project: dict[str, Any]
    tasks: list[_Task]


_import = msgspec.json.Decoder(_Import)


def read_object(environ: Mapping[str, Any], limit: int, *, brief: bool = False) -> dict[str, Any]:
    """The JSON object in a WSGI request's body, of at most ``limit`` bytes; ``brief`` leaves out what a large
    ``TASKS_CREATED`` tells of its tasks beside their id and ``updated_at``, without looking at it closely.

    Raises `BadInput` (fields ``Content-Type``, ``Content-Encoding``, ``Content-Length``, ``body``) with status 415 for
    another content type or a compressed body, 413 over the limit, 400 for everything else. Numbers that are not finite,
    lone surrogates and more than 1,024 levels are no JSON here.
    """
    content_type = environ.get("CONTENT_TYPE")
    if content_type != _JSON and (content_type or "").partition(";")[0].strip().lower() != _JSON:
        raise BadInput("Content-Type", "must be application/json", status=415)
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in {"identity", ""}:
        raise BadInput("Content-Encoding", "must be identity: compressed bodies are not read", status=415)
    try:
        body = _decode(_read(environ, limit), brief=brief)
    except orjson.JSONDecodeError as error:
        # Only the position: the rest of the message may quote the body.
        raise BadInput("body", f"is not JSON at line {error.lineno} column {error.colno}") from None
    if isinstance(body, dict):
        return body
    raise BadInput("body", "must be a JSON object")


def too_deep(value: object) -> bool:
    """Whether decoded JSON is nested deeper than `DEEPEST`. Walks all of it: for use after something failed on it."""
    layer = [value]
    for _ in range(DEEPEST):
        following: list[object] = []
        for one in layer:
            if isinstance(one, dict):
                following.extend(one.values())
            elif isinstance(one, list):
                following.extend(one)
        if not following:
            return False
        layer = following
    return any(isinstance(one, dict | list) for one in layer)


def _decode(body: bytes, *, brief: bool) -> object:
    if len(body) < _LARGE:
        return orjson.loads(body)
    if brief and b'"TASKS_CREATED"' in body[:_HEAD]:
        try:
            found = _import.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            pass  # told in full, it says what is wrong with it, or is as older releases write it
        else:
            tasks = [{"id": task.id, "updated_at": task.updated_at} for task in found.tasks]
            return {"action": found.action, "project": found.project, "tasks": tasks}
    if not gc.isenabled():
        return orjson.loads(body)
    # Thousands of new objects and no cycle among them: looking for one meanwhile takes as long as the decoding.
    gc.disable()
    try:
        return orjson.loads(body)
    finally:
        gc.enable()


def _read(environ: Mapping[str, Any], limit: int) -> bytes:
    stated = environ.get("CONTENT_LENGTH")
    if stated:
        if not (stated.isascii() and stated.isdigit()):
            raise BadInput("Content-Length", "must be a whole number")
        # So many digits are too many in any case, and Python would not read thousands of them.
        length = int(stated) if len(stated) < _LONGEST_LENGTH else limit + 1
        if length > limit:
            raise _too_large(limit)
        body = _read_stream(environ, length)
        if len(body) != length:
            raise BadInput("body", "is cut short")
        return body
    if not environ.get("wsgi.input_terminated"):
        # Nothing says where the body ends: reading could wait for ever.
        return b""
    body = _read_stream(environ, limit + 1)
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _read_stream(environ: Mapping[str, Any], size: int) -> bytes:
    try:
        return environ["wsgi.input"].read(size)  # type: ignore[no-any-return]
    except Exception as error:
        # A broken chunk, a client that went away: servers raise errors of their own for these.
        raise BadInput("body", "could not be read to its end") from error


def _too_large(limit: int) -> BadInput:
    return BadInput("body", f"is larger than {limit} bytes", status=413)
