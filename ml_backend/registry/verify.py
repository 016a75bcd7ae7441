"""Whether a folder holds exactly the files that a manifest names: none missing, added, changed or leading elsewhere."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.errors import ModelError, VersionCorrupt
from ml_backend.registry.manifest import MANIFEST, check_file_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.registry.manifest import Manifest

_Seen = tuple[int, int, int, int, str]
_REMEMBERED = 32
"""Folders. A process that serves loads version after version, and hardly ever one of them again."""


class Verifier:
    """Checks folders; a file whose times, size and inode are as they were when it was hashed is not read again.

    That is remembered of the folders that were checked last.
    """

    def __init__(self) -> None:
        self._hashed: OrderedDict[Path, dict[str, _Seen]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, folder: Path, manifest: Manifest) -> None:
        """Raises `VersionCorrupt` with the file and what is wrong with it."""
        if not folder.is_dir() or folder.is_symlink():
            raise VersionCorrupt(f"the folder of version {manifest.number} is missing")
        with self._lock:
            known = self._hashed.get(folder, {})
        hashed: dict[str, _Seen] = {}
        for name, path, entry in _walk(folder):
            if name == MANIFEST:
                continue
            expected = manifest.files.get(name)
            if not stat.S_ISREG(entry.st_mode):
                raise VersionCorrupt(f"version {manifest.number}: {name} is not a regular file")
            if expected is None:
                raise VersionCorrupt(f"version {manifest.number}: {name} was added after publishing")
            if entry.st_size != expected.size:
                raise VersionCorrupt(
                    f"version {manifest.number}: {name} has {entry.st_size} bytes, not {expected.size}"
                )
            hashed[name] = _seen(path, entry, known.get(name))
            if hashed[name][4] != expected.sha256:
                raise VersionCorrupt(
                    f"version {manifest.number}: {name} has another checksum than when it was published"
                )
        missing = sorted(manifest.files.keys() - hashed.keys())
        if missing:
            raise VersionCorrupt(f"version {manifest.number}: {missing[0]} is missing")
        with self._lock:
            self._hashed[folder] = hashed
            self._hashed.move_to_end(folder)
            if len(self._hashed) > _REMEMBERED:
                self._hashed.popitem(last=False)


def _seen(path: str, entry: os.stat_result, known: _Seen | None) -> _Seen:
    stamp = (entry.st_mtime_ns, entry.st_ctime_ns, entry.st_size, entry.st_ino)
    if known is not None and known[:4] == stamp:
        return known
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as handle:
            return (*stamp, hashlib.file_digest(handle, "sha256").hexdigest())
    except OSError as error:
        raise VersionCorrupt(f"{path} cannot be read: {error}") from error


def files_of(folder: Path) -> dict[str, Path]:
    """The regular files below ``folder`` that a model wrote, by name.

    Raises `ModelError` for a name that a version cannot hold, a link, a socket.
    """
    found: dict[str, Path] = {}
    for name, path, entry in _walk(folder):
        if not stat.S_ISREG(entry.st_mode):
            raise ModelError(
                f"the model wrote {name!r}, which is a link or a special file: a version holds copies only"
            )
        found[check_file_name(name)] = Path(path)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    waiting = [(str(folder), "")]
    while waiting:
        here, prefix = waiting.pop()
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    yield f"{prefix}{entry.name}", entry.path, entry.stat(follow_symlinks=False)
