"""A store behind any fsspec URL (`s3://bucket/models`): objects appear whole, a local cache holds copies to read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

from ml_backend.errors import RegistryError, RunEnded, StoreUnavailable
from ml_backend.registry.manifest import MANIFEST, FileEntry, encode
from ml_backend.uids import PATTERN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ml_backend.registry.manifest import Manifest

_PLACE = re.compile(rf"({PATTERN})/([1-9]\d{{0,11}})/(.+)", re.ASCII)
_UNFINISHED_S = 24 * 3600.0
"""A copy that nobody has written a file to for so long is nobody's any more."""


class RemoteStorage:
    """Files under ``url``; ``cache`` is a private local folder that several processes of one user may share."""

    def __init__(self, url: str, cache: Path) -> None:
        self._url = url.rstrip("/")
        # Two stores must never share copies: the same project and number may be another version there.
        self._cache = cache / hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._local = threading.local()

    def _open(self) -> tuple[Any, str]:
        # fsspec objects may not cross a fork, and their event loop is made on first use: one each process and thread.
        known = getattr(self._local, "opened", None)
        if known is not None and known[0] == os.getpid():
            return known[1], known[2]
        import fsspec  # noqa: PLC0415 - late: a local store never needs it

        try:
            system, root = fsspec.url_to_fs(self._url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreUnavailable(f"the version store {self._url} cannot be opened: {error}") from error
        self._local.opened = (os.getpid(), system, root.rstrip("/"))
        return system, root.rstrip("/")

    @contextlib.contextmanager
    def _using(self) -> Iterator[tuple[Any, str]]:
        system, root = self._open()
        try:
            yield system, root
        except (FileNotFoundError, RegistryError, RunEnded):
            raise  # the last: a worker that is asked to stop says so wherever the program is
        except Exception as error:
            # Every implementation brings its own exceptions (botocore, aiohttp, google): all mean the same here.
            raise StoreUnavailable(f"the version store {self._url} cannot be used: {error}") from error

    def _names(self, below: str) -> list[str]:
        with self._using() as (system, root):
            try:
                system.invalidate_cache()
                return [str(one)[len(root) + 1 :] for one in system.find(f"{root}/{below}" if below else root)]
            except FileNotFoundError:
                return []

    def probe(self) -> None:
        """Put a small object beside the projects' own, read and remove it."""
        with self._using() as (system, root):
            name = f"{root}/.probe-{secrets.token_hex(4)}"
            system.makedirs(root, exist_ok=True)
            system.pipe_file(name, b"written by ml-backend doctor")
            system.cat_file(name)
            system.rm_file(name)

    def uids(self) -> list[str]:
        """The projects that have anything stored."""
        return sorted({match[1] for name in self._names("") if (match := _PLACE.fullmatch(name))})

    def numbers(self, uid: str) -> dict[int, bool]:
        """Every number that has anything stored, and whether its manifest is there."""
        found: dict[int, bool] = {}
        for name in self._names(uid):
            if (match := _PLACE.fullmatch(name)) is not None:
                number = int(match[2])
                found[number] = found.get(number, False) or match[3] == MANIFEST
        return found

    def read(self, uid: str, name: str) -> bytes:
        """The content of a small object. Raises `FileNotFoundError`."""
        with self._using() as (system, root):
            return bytes(system.cat_file(f"{root}/{uid}/{name}"))

    def write(self, uid: str, name: str, data: bytes) -> None:
        """Put a small object: object stores show it whole or not at all."""
        with self._using() as (system, root):
            system.makedirs(f"{root}/{uid}/{name}".rpartition("/")[0], exist_ok=True)
            system.pipe_file(f"{root}/{uid}/{name}", data)

    def begin(self, uid: str, number: int) -> None:
        """See that nothing is there. Raises `RegistryError`."""
        if number in self.numbers(uid):
            raise RegistryError(f"version {number} of project {uid} exists already")

    def put(self, uid: str, number: int, name: str, source: Path) -> FileEntry:
        """Upload a file; a source that changes meanwhile shows as a wrong checksum later."""
        with source.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            size = handle.tell()
        target = f"{uid}/{number}/{name}"
        with self._using() as (system, root):
            system.makedirs(f"{root}/{target}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(source), f"{root}/{target}")
        return FileEntry(digest, size)

    def commit(self, uid: str, number: int, names: Collection[str], manifest: bytes) -> None:
        """Write the manifest, then see that the files were not swept just before: an object store locks nothing."""
        self.write(uid, f"{number}/{MANIFEST}", manifest)
        if not {f"{uid}/{number}/{name}" for name in names} <= set(self._names(f"{uid}/{number}")):
            raise StoreUnavailable(f"files of version {number} of project {uid} were removed while it was published")

    def remove(self, uid: str, number: int, *, leftover: bool = False) -> None:
        """Delete the objects, the manifest first, and the local copy."""
        names = self._names(f"{uid}/{number}")
        if leftover and f"{uid}/{number}/{MANIFEST}" in names:
            return
        names.sort(key=lambda name: name != f"{uid}/{number}/{MANIFEST}")
        with self._using() as (system, root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(f"{root}/{name}")
        self.forget(uid, number)

    def folder(self, uid: str, number: int, manifest: Manifest) -> Path:
        """The local copy, made now when there is none; it appears whole, so that processes may race for it."""
        target = self._cache / uid / str(number)
        if target.is_dir():
            return target
        beside = self._cache / uid / f".{number}-{secrets.token_hex(8)}"
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            beside.mkdir(mode=0o700)
            for name in manifest.files:
                self._download(uid, number, name, beside / name)
            (beside / MANIFEST).write_bytes(encode(manifest))
            with contextlib.suppress(OSError):  # another process was first: its copy is verified like ours
                beside.rename(target)
        except OSError as error:
            raise StoreUnavailable(f"version {number} of project {uid} cannot be copied here: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        self._tidy(uid)
        return target

    def _download(self, uid: str, number: int, name: str, target: Path) -> None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), self._using() as (system, root):
            # A file that is not there is found by the verification, with the version's other faults.
            system.get_file(f"{root}/{uid}/{number}/{name}", str(target))
            target.chmod(0o600)

    def _tidy(self, uid: str) -> None:
        """Remove copies of versions that are gone, and what a process that was killed had not copied to the end."""
        stored = self.numbers(uid)
        for copy in (self._cache / uid).iterdir():
            with contextlib.suppress(FileNotFoundError):
                unfinished = copy.name.startswith(".") and time.time() - copy.stat().st_mtime > _UNFINISHED_S
                if unfinished or (copy.name.isdigit() and int(copy.name) not in stored):
                    shutil.rmtree(copy, ignore_errors=True)

    def forget(self, uid: str, number: int) -> bool:
        """Drop the local copy."""
        copy = self._cache / uid / str(number)
        there = copy.is_dir()
        shutil.rmtree(copy, ignore_errors=True)
        return there
