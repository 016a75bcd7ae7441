"""Files kept by project and task in a folder of this machine; processes share it. The least recently used go first.

``<root>/<project uid>/<task id>/<hash of the URL>/<name>``. A file appears whole, by renaming, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_backend.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
GRACE_S = 120.0
"""A file that was asked for so recently may be in use, and stays although the cache is full."""
IDLE_S = 3600.0
"""A file of a task that nothing is known of (it has no annotation yet) stays so long after it was last used."""
_SWEEP_EVERY_S = 60.0
_AT_ONCE = 500
_UNFINISHED_S = 3600.0


class Standing(Protocol):
    """What is known of tasks: True for those in the training set, False for those deleted; others are missing.

    None: the project was deleted, or nobody knows it.
    """

    def __call__(self, uid: str, ids: Collection[int]) -> dict[int, bool] | None:
        """May raise `Unavailable`: nothing is removed then."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    uid: str
    task: int
    size: int
    used: float


class Cache:
    """A folder of files with a size limit in bytes. Threads and processes may share it.

    Files in use are not removed: for what must stay longer than `GRACE_S` make a link (`link`).
    """

    def __init__(self, root: Path, limit: int, standing: Standing, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._limit = limit
        self._standing = standing
        self._now = now
        self._lock = threading.Lock()
        self._size: int | None = None
        self._swept = 0.0

    @property
    def limit(self) -> int:
        """Bytes; no file may be larger."""
        return self._limit

    def get(self, uid: str, task: int, url: str, name: str) -> Path | None:
        """The file, if it is there; it counts as used now."""
        path = self._place(uid, task, url) / name
        try:
            os.utime(path, (self._now(), self._now()))
        except FileNotFoundError:
            return None
        return path

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A place to write a file before it is put in; what is left there is removed."""
        folder = self._root / "incoming"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def put(self, written: Path, uid: str, task: int, url: str, name: str) -> Path:
        """Take a file over; removes others if there is no room."""
        folder = self._place(uid, task, url)
        size = written.stat().st_size
        os.utime(written, (self._now(), self._now()))
        while True:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                written.replace(folder / name)
                break
            except FileNotFoundError:
                if not written.exists():
                    raise
                # Another process removed the folder, empty as it was, in between.
        with self._lock:
            full = self._size is None or self._size + size > self._limit
            if self._size is not None:
                self._size += size
        if full or self._now() - self._swept > _SWEEP_EVERY_S:
            self.sweep()
        return folder / name

    def sweep(self) -> int:
        """Remove files of deleted tasks and projects, and what does not fit; returns how many."""
        with self._lock:
            self._swept = self._now()
            kept = self._files()
            known = self._known(kept)
            gone = {one.path for one in kept if self._is_gone(one, known[one.uid])}
            left = sorted((one for one in kept if one.path not in gone), key=lambda one: one.used)
            size = sum(one.size for one in left)
            for one in left:
                if size <= self._limit or one.used > self._now() - GRACE_S:
                    break
                gone.add(one.path)
                size -= one.size
            self._size = size
            for path in gone:
                _remove(path, self._root)
            return len(gone)

    def _known(self, kept: list[_Kept]) -> dict[str, dict[int, bool] | None]:
        tasks: dict[str, set[int]] = {}
        for one in kept:
            tasks.setdefault(one.uid, set()).add(one.task)
        found: dict[str, dict[int, bool] | None] = {}
        for uid, ids in tasks.items():
            known: dict[int, bool] | None = {}
            listed = sorted(ids)
            try:
                for at in range(0, len(listed), _AT_ONCE):
                    part = self._standing(uid, listed[at : at + _AT_ONCE])
                    known = None if part is None or known is None else known | part
            except Unavailable:
                known = dict.fromkeys(ids, True)  # what is not known now will be at the next sweep
            found[uid] = known
        return found

    def _is_gone(self, one: _Kept, known: dict[int, bool] | None) -> bool:
        if known is None:
            return one.used < self._now() - GRACE_S
        alive = known.get(one.task)
        return not alive and (alive is False or one.used < self._now() - IDLE_S)

    def _files(self) -> list[_Kept]:
        found: list[_Kept] = []
        for path in self._root.glob("*/*/*/*"):
            uid, task = path.parts[-4:-2]
            with contextlib.suppress(FileNotFoundError, ValueError):
                status = path.stat()
                found.append(_Kept(path, uid, int(task), status.st_size, status.st_mtime))
        for path in (self._root / "incoming").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < self._now() - _UNFINISHED_S:
                    path.unlink()
        return found

    def _place(self, uid: str, task: int, url: str) -> Path:
        return self._root / uid / str(task) / hashlib.sha256(url.encode()).hexdigest()[:32]


def link(path: Path, folder: Path) -> Path:
    """The same file below another folder, where it stays whatever becomes of the first; a copy on another disk."""
    target = folder / path.parent.name / path.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, target)
    return target


def _remove(path: Path, root: Path) -> None:
    path.unlink(missing_ok=True)
    for folder in list(path.parents)[:3]:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return
