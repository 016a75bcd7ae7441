"""Where a media URL may lead: pure. Label Studio's own files, and hosts that the operator lists; nowhere else.

Task data is whatever somebody imported, and this machine may reach what they may not: so a host is never taken from a
task, it is only compared with a list.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, quote, unquote, urljoin, urlsplit

from ml_backend.errors import MediaError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CLOUD = ("s3", "gs", "azure-blob")
_ITS_FILES = ("/data/", "/storage-data/uploaded")
_RESOLVED = re.compile(r"/tasks/\d{1,18}/(presign|resolve)/", re.ASCII)
"""Below and at these Label Studio serves files; only here the API key goes along."""
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Address:
    """What to ask for; ``with_key``: it is Label Studio's own file, and asks for the API key.

    ``otherwise``: where the file may lie if it is not found there.
    """

    url: str
    with_key: bool = False
    otherwise: str | None = None


class Hosts:
    """Label Studio's address, and what the operator lists beside it: ``images.example.com``, ``10.0.0.7:9000``.

    A listed host without a port means the ports 80 and 443. Raises `SettingsError` for what is no host.
    """

    def __init__(self, label_studio_url: str | None, listed: Iterable[str] = ()) -> None:
        self._base = (label_studio_url or "").rstrip("/")
        self._listed = frozenset(_listed(one) for one in listed)

    def address(self, url: str, task_id: int | None = None) -> Address:
        """Where the file of a task's URL is asked for. Raises `MediaError`."""
        if not url.isprintable() or "\\" in url:
            raise MediaError("not_media", "it holds characters that no URL has", url)
        parts = _split(url, url)
        if parts.scheme in _CLOUD:
            return self._presigned(url, task_id)
        if parts.scheme in _DEFAULT_PORTS:
            return self._absolute(url, parts)
        if parts.scheme or parts.netloc:
            raise MediaError("not_media", "only http and https are fetched", url)
        path = url if url.startswith("/") else f"/{url}"
        if not self._is_file(path) and path.startswith("/upload/"):
            path = f"/data{path}"  # exports write it like this
        if not self._is_file(path):
            raise MediaError("not_media", "it is no URL, and none of Label Studio's own files", url)
        return self._own(url, path)

    def next(self, here: str, location: str, url: str) -> Address:
        """Where a redirect may lead: to a listed host, without the API key. Raises `MediaError`."""
        parts = _split(urljoin(here, location), url)
        if self._base and _origin(parts) == _origin(urlsplit(self._base)):
            # To its log-in page, mostly: what comes back is no media, and the key does not go along a second time.
            raise MediaError("refused", f"Label Studio redirects it to {parts.path}", url)
        return self._elsewhere(parts.geturl(), parts, url)

    def _absolute(self, url: str, parts: SplitResult) -> Address:
        if self._base and _origin(parts) == _origin(urlsplit(self._base)):
            whole = parts.path + (f"?{parts.query}" if parts.query else "")
            return self._own(url, whole) if self._is_file(whole) else Address(parts._replace(fragment="").geturl())
        return self._elsewhere(url, parts, url)

    def _elsewhere(self, target: str, parts: SplitResult, url: str) -> Address:
        if parts.scheme not in _DEFAULT_PORTS or parts.username is not None:
            raise MediaError("host_not_allowed", "only http and https without a user name are fetched", url)
        host, port = _origin(parts)[1:]
        if (host, port) not in self._listed and not ((host, None) in self._listed and port in (80, 443)):
            raise MediaError("host_not_allowed", f"{host}:{port} is not in ML_BACKEND_MEDIA_HOSTS", url)
        return Address(urlsplit(target)._replace(fragment="").geturl())

    def _own(self, url: str, path: str) -> Address:
        if not self._base:
            raise MediaError("not_configured", "it is Label Studio's own file: set LABEL_STUDIO_URL", url)
        below = self._below_prefix(path)
        plain = unquote(unquote(urlsplit(below).path))
        if posixpath.normpath(plain) != plain.rstrip("/") or "//" in plain:
            raise MediaError("not_media", "its path goes upwards", url)
        otherwise = None
        if plain.startswith("/data/upload/"):
            # Where Label Studio keeps uploads in a cloud, they come through its storage proxy only.
            otherwise = f"{self._base}/storage-data/uploaded/?filepath={quote(plain.removeprefix('/data/'))}"
        return Address(self._base + below, with_key=True, otherwise=otherwise)

    def _presigned(self, url: str, task_id: int | None) -> Address:
        if not self._base or task_id is None:
            raise MediaError("not_configured", "it lies in Label Studio's cloud storage: set LABEL_STUDIO_URL", url)
        wanted = base64.urlsafe_b64encode(url.encode()).decode()
        return Address(f"{self._base}/tasks/{task_id}/presign/?fileuri={wanted}", with_key=True)

    def _below_prefix(self, path: str) -> str:
        """Label Studio under a path of its own (``https://host/labels``) writes it in front, or does not."""
        prefix = urlsplit(self._base).path
        return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/") else path

    def _is_file(self, path: str) -> bool:
        below = self._below_prefix(path)
        # The second: how Label Studio shows a browser what lies in cloud storage.
        return below.startswith(_ITS_FILES) or _RESOLVED.fullmatch(below.partition("?")[0]) is not None


def file_name(url: str) -> str:
    """A readable, harmless name for the file behind a URL, with its extension: models look at it."""
    parts = urlsplit(url)
    if _RESOLVED.search(parts.path) and (inner := _resolved(parts.query)):
        parts = urlsplit(inner)
    last = parts.query if parts.path.rstrip("/").endswith(("local-files", "uploaded")) else parts.path
    name = unquote(last).replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition("=")[2]
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
    return kept.lstrip(".")[-_LONGEST_NAME:] or "file"


def _resolved(query: str) -> str:
    """The storage's own URL that Label Studio was asked to resolve; empty when it cannot be read."""
    given = parse_qs(query).get("fileuri", [""])[0]
    try:
        found = base64.urlsafe_b64decode(given.encode()).decode()
        urlsplit(found)
    except (binascii.Error, ValueError):
        return ""
    return found


def _split(text: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise MediaError("not_media", f"it is no URL: {error}", url) from None
    if parts.scheme in _DEFAULT_PORTS and not parts.hostname:
        raise MediaError("not_media", "it names no host", url)
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    host = (parts.hostname or "").rstrip(".").lower()
    return parts.scheme, host, parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _listed(text: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path or parts.query or parts.username is not None or "*" in text:
        raise SettingsError(
            "ML_BACKEND_MEDIA_HOSTS", f"{text!r} is no host, such as images.example.com or 10.0.0.7:9000"
        )
    return host.rstrip(".").lower(), port
