"""Where versions lie: the small interface that both kinds of store meet, and the plain folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ml_backend.errors import RegistryError, StoreUnavailable
from ml_backend.registry.manifest import MANIFEST, FileEntry
from ml_backend.uids import is_uid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ml_backend.registry.manifest import Manifest

_NUMBER = re.compile(r"[1-9]\d{0,11}", re.ASCII)
_CHUNK = 1 << 20
_GONE = ".gone-"


class Storage(Protocol):
    """Files under ``<store>/<uid>/``. Every method raises `StoreUnavailable` when the store cannot be used."""

    def probe(self) -> None:
        """Write something and take it away again."""

    def uids(self) -> list[str]:
        """The projects that have anything stored."""

    def numbers(self, uid: str) -> dict[int, bool]:
        """Every number that has anything stored, and whether its manifest is there: without one it is a leftover."""

    def read(self, uid: str, name: str) -> bytes:
        """The content of a small file. Raises `FileNotFoundError`."""

    def write(self, uid: str, name: str, data: bytes) -> None:
        """Make a small file appear at once and whole, in place of the one before."""

    def begin(self, uid: str, number: int) -> None:
        """Take an empty place. Raises `RegistryError` when something is there already."""

    def put(self, uid: str, number: int, name: str, source: Path) -> FileEntry:
        """Copy a file in; the checksum is that of the bytes which were stored."""

    def commit(self, uid: str, number: int, names: Collection[str], manifest: bytes) -> None:
        """Write the manifest, which makes the version exist, unless somebody swept its files away meanwhile."""

    def remove(self, uid: str, number: int, *, leftover: bool = False) -> None:
        """Remove a version so that half of it is never listed; a ``leftover`` only if it is one still."""

    def folder(self, uid: str, number: int, manifest: Manifest) -> Path:
        """A local folder with the version's files, not yet verified."""

    def forget(self, uid: str, number: int) -> bool:
        """Drop a local copy which turned out damaged; False when there is none to fetch again."""


class FolderStorage:
    """A folder on a disk, private to its owner (0700, files 0600), written so that a power cut leaves no half file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def probe(self) -> None:
        """Write a file beside the projects' folders, and remove it."""
        with _reported(self._root):
            _private_folder(self._root)
            beside = self._root / f".probe-{secrets.token_hex(4)}"
            try:
                with _private_file(beside) as handle:
                    handle.write(b"written by ml-backend doctor")
                    handle.flush()
                    os.fsync(handle.fileno())
            finally:
                beside.unlink(missing_ok=True)

    def uids(self) -> list[str]:
        """The projects that have anything stored."""
        with _reported(self._root):
            return sorted(entry.name for entry in _entries(self._root) if is_uid(entry.name))

    def numbers(self, uid: str) -> dict[int, bool]:
        """Every number that has a folder, and whether its manifest is there."""
        with _reported(self._root):
            return {
                int(entry.name): Path(entry.path, MANIFEST).is_file()
                for entry in _entries(self._root / uid)
                if _NUMBER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            }

    def read(self, uid: str, name: str) -> bytes:
        """The content of a small file. Raises `FileNotFoundError`."""
        with _reported(self._root):
            return (self._root / uid / name).read_bytes()

    def write(self, uid: str, name: str, data: bytes) -> None:
        """Write beside it, then rename over it."""
        with _reported(self._root):
            _private_folder(self._root / uid)
        self._replace(self._root / uid / name, data)

    def _replace(self, target: Path, data: bytes) -> None:
        with _reported(self._root):
            beside = target.parent / f".{target.name}.{os.getpid()}-{threading.get_ident()}"
            try:
                with _private_file(beside) as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                beside.replace(target)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)

    def begin(self, uid: str, number: int) -> None:
        """Make the version's folder, which must not exist."""
        with _reported(self._root):
            _private_folder(self._root / uid)
            try:
                (self._root / uid / str(number)).mkdir(mode=0o700)
            except FileExistsError as error:
                raise RegistryError(f"version {number} of project {uid} exists already") from error

    def put(self, uid: str, number: int, name: str, source: Path) -> FileEntry:
        """Copy a file in, hashing what is written."""
        folder = self._root / uid / str(number)
        target = folder / name
        digest = hashlib.sha256()
        size = 0
        with _reported(self._root):
            # Never the version's own folder: if it was swept, this must fail.
            _private_folder(target.parent, below=folder)
            with source.open("rb") as reader, _private_file(target) as writer:
                while chunk := reader.read(_CHUNK):
                    writer.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                writer.flush()
                os.fsync(writer.fileno())
            _sync_folder(target.parent)
        return FileEntry(digest.hexdigest(), size)

    def commit(self, uid: str, number: int, names: Collection[str], manifest: bytes) -> None:  # noqa: ARG002
        """Write the manifest into the folder; one that was swept is gone as a whole, so this fails then."""
        self._replace(self._root / uid / str(number) / MANIFEST, manifest)

    def remove(self, uid: str, number: int, *, leftover: bool = False) -> None:
        """Move the folder out of sight in one step, then delete it, and what earlier removals left."""
        folder = self._root / uid / str(number)
        hidden = folder.with_name(f"{_GONE}{number}-{secrets.token_hex(4)}")
        with _reported(self._root):
            with contextlib.suppress(FileNotFoundError):
                folder.rename(hidden)
            if leftover and (hidden / MANIFEST).is_file():
                hidden.rename(folder)
            for entry in _entries(self._root / uid):
                if entry.name.startswith(_GONE):
                    shutil.rmtree(entry.path, ignore_errors=True)

    def folder(self, uid: str, number: int, manifest: Manifest) -> Path:  # noqa: ARG002 - remote stores need it
        """The version's own folder: nothing is copied."""
        return self._root / uid / str(number)

    def forget(self, uid: str, number: int) -> bool:  # noqa: ARG002 - there is no copy
        """Nothing: this is the store itself."""
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _private_folder(folder: Path, below: Path | None = None) -> None:
    # Path.mkdir(parents=True) gives its mode to the last folder only.
    missing = []
    while folder != below and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def _private_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _reported(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreUnavailable(f"the disk of the version store is full ({root})") from error
        raise StoreUnavailable(f"the version store {root} cannot be used: {error}") from error
