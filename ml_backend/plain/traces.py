"""Whether a call left anything behind: files, values, child processes. If not, a fresh process would be the same."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ml_backend.plain_state import Values

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = frozenset(
    {
        "os.link",
        "os.mkdir",
        "os.posix_spawn",
        "os.fork",
        "os.remove",
        "os.rename",
        "os.symlink",
        "os.system",
        "os.truncate",
        "shutil.copyfile",
        "shutil.move",
        "sqlite3.connect",
        "subprocess.Popen",
    }
)


class Traces:
    """``with traces:`` around a call; afterwards `left` says whether it wrote anything, as far as can be told.

    Python tells of what Python code opens; what libraries write by themselves shows as output to the disk. When in
    doubt something was left: a fresh process too many costs less than old weights that serve on.
    """

    def __init__(self, values: Values) -> None:
        self.left = False
        self._values = values
        self._watching = False
        sys.addaudithook(self._hear)

    def __enter__(self) -> Self:
        self.left = False
        self._sets = self._values.changes
        self._output = _blocks_written()
        self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False
        self.left = self.left or self._values.changes != self._sets or _blocks_written() != self._output

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or self.left:
            return
        if event in _EVENTS:
            self.left = True
        elif event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
            self.left = writes and not str(path).startswith("/dev/")


def _blocks_written() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock
