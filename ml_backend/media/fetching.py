"""Brings a task's file to this machine: from the cache, or from where `Hosts` lets it be asked for."""

from __future__ import annotations

import base64
import binascii
import logging
import mimetypes
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from ml_backend.errors import LabelStudioError, LabelStudioUnreachable, MediaError, SettingsError
from ml_backend.media.addresses import Address, file_name
from ml_backend.media.cache import link
from ml_backend.turns import NoTurn, Turns
from ml_backend.unpacking import WronglyPacked, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import httpx

    from ml_backend.examples import Fetch, JsonObject
    from ml_backend.media.addresses import Hosts
    from ml_backend.media.cache import Cache

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_REDIRECTS = 3
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+=-]+)*?)(;base64)?,", re.ASCII | re.IGNORECASE)


class Media:
    """Fetches media of every project. Threads may share it; close it when done.

    ``authorization(renew)`` gives the header that Label Studio asks for, a fresh one with ``renew``; it is sent with
    Label Studio's own files only, and never across a redirect. ``timeout_s``: without a byte; ``deadline_s``: a file.
    ``turns``: how many threads may wait for one at once.
    """

    def __init__(
        self,
        hosts: Hosts,
        cache: Cache,
        authorization: Callable[[bool], Mapping[str, str]],
        *,
        timeout_s: float = 20.0,
        deadline_s: float = 300.0,
        closing: Callable[[], None] | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._hosts = hosts
        self._turns = turns or Turns()
        self._cache = cache
        self._authorization = authorization
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._closing = closing

    def close(self) -> None:
        """Close the connections, and call ``closing``."""
        if self._closing is not None:
            self._closing()
        with self._lock:
            if self._http is not None:
                self._http.close()
            self._http = None

    def sweep(self) -> int:
        """Remove files of what was deleted in Label Studio; how many. Never raises for the disk's faults."""
        try:
            return self._cache.sweep()
        except OSError as error:
            log.warning("the media cache cannot be swept: %s", error)
            return 0

    def of(self, uid: str, folder: Path | None = None) -> Fetch:
        """What fetches for a project. With a ``folder``, files appear there too, and stay as long as it does."""

        def fetch(task: JsonObject, url: str) -> Path:
            found = self.path(uid, int(task["id"]), url)
            return found if folder is None else link(found, folder)

        return fetch

    def path(self, uid: str, task: int, url: str) -> Path:
        """The file behind a URL of a task, on this machine. Raises `MediaError`."""
        address = None if url[:5].lower() == "data:" else self._hosts.address(url, task)
        name = file_name(url) if address is not None else _data_name(url)
        found = self._cache.get(uid, task, url, name)
        if found is not None:
            return found
        with self._cache.writing() as path:
            if address is None:
                path.write_bytes(_data(url))
            else:
                self._download(address, path, url)
            return self._cache.put(path, uid, task, url, name)

    # Asking

    def _download(self, address: Address, path: Path, url: str) -> None:
        try:
            with self._turns.turn():
                self._fetch(address, path, url)
        except NoTurn as error:
            raise MediaError("unreachable", f"too many requests wait for files: {error}", url) from None

    def _fetch(self, address: Address, path: Path, url: str) -> None:
        try:
            self._ask(address, path, url)
        except MediaError as error:
            if error.kind != "not_found" or address.otherwise is None:
                raise
            try:
                self._ask(Address(address.otherwise, with_key=True), path, url)
            except MediaError:
                raise error from None

    def _ask(self, address: Address, path: Path, url: str) -> None:
        import httpx  # noqa: PLC0415 - an HTTP client, which few web processes need

        until = time.monotonic() + self._deadline_s
        renewed = False
        redirects = 0
        try:
            while True:
                headers = {"Accept-Encoding": "identity"}
                if address.with_key:
                    headers.update(self._header(url, renew=renewed))
                with self._client().stream("GET", address.url, headers=headers) as answer:
                    if answer.is_redirect and redirects < _REDIRECTS:
                        redirects += 1
                        address = self._hosts.next(address.url, answer.headers.get("location", ""), url)
                        continue
                    if answer.status_code == httpx.codes.UNAUTHORIZED and address.with_key and not renewed:
                        renewed = True
                        continue
                    _raise_for(answer, url, with_key=address.with_key)
                    self._write(_unpacked(answer, url), path, url, until)
                    return
        except httpx.HTTPError as error:
            where = urlsplit(address.url).hostname
            raise MediaError("unreachable", f"{where}: {type(error).__name__} {error}".strip(), url) from error
        except httpx.InvalidURL as error:
            raise MediaError("not_media", f"it is no URL: {error}", url) from None

    def _write(self, parts: Iterable[bytes], path: Path, url: str, until: float) -> None:
        size = 0
        with path.open("wb") as file:
            for part in parts:
                size += len(part)
                if size > self._cache.limit:
                    raise MediaError("too_large", f"it is larger than the cache, {self._cache.limit} bytes", url)
                if time.monotonic() > until:
                    raise MediaError("unreachable", f"it did not come within {self._deadline_s:g} s", url)
                file.write(part)

    def _header(self, url: str, *, renew: bool) -> Mapping[str, str]:
        try:
            return self._authorization(renew)
        except SettingsError as error:
            raise MediaError("not_configured", f"it is Label Studio's own file: {error}", url) from None
        except LabelStudioUnreachable as error:
            raise MediaError("unreachable", str(error), url) from error
        except LabelStudioError as error:
            raise MediaError("refused", str(error), url) from error

    def _client(self) -> httpx.Client:
        import httpx  # noqa: PLC0415

        with self._lock:
            if self._http is None:
                self._http = httpx.Client(
                    timeout=httpx.Timeout(self._timeout_s, connect=min(_CONNECT_S, self._timeout_s)),
                    transport=httpx.HTTPTransport(retries=1),
                    follow_redirects=False,
                )
            return self._http


def _unpacked(answer: httpx.Response, url: str) -> Iterator[bytes]:
    """The parts of an answer. Raises `MediaError` for what is compressed but by gzip.

    Compression is not asked for; stores of objects send what they keep with gzip so all the same.
    """
    try:
        yield from unpacked(answer.iter_raw(), answer.headers.get("content-encoding", ""))
    except WronglyPacked as error:
        raise MediaError("unreachable" if error.cut else "not_media", f"{answer.url.host}: {error}", url) from None


def _raise_for(answer: httpx.Response, url: str, *, with_key: bool) -> None:
    if answer.is_success:
        return
    status = answer.status_code
    said = f"{answer.url.host} answered {status}"
    if status in (404, 410):
        raise MediaError("not_found", said, url)
    if status in (401, 403):
        who = "the owner of LABEL_STUDIO_API_KEY may not read it" if with_key else "it asks for credentials"
        raise MediaError("refused", f"{said}: {who}", url)
    raise MediaError("unreachable" if answer.is_server_error else "refused", said, url)


def _data(url: str) -> bytes:
    head = _DATA.match(url)
    if head is None:
        raise MediaError("not_media", "it is no data URL", url)
    body = url[head.end() :]
    if not head[3]:
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote_to_bytes(body), validate=True)
    except binascii.Error as error:
        raise MediaError("not_media", f"its base64 is broken: {error}", url) from None


def _data_name(url: str) -> str:
    head = _DATA.match(url)
    kind = head[1] if head is not None else None
    return "data" + (mimetypes.guess_extension(kind) or "" if kind else "")
