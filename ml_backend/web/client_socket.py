"""A client's socket that is read ahead by the event loop, and in which no thread waits for longer than is fair."""

import enum
import errno
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_READ_AHEAD = 128 * 1024
_LONGEST_HEAD = 64 * 1024
_LEFT = 64 * 1024  # bytes of an answer that no thread waits for: more than anybody gets who has no password
PATIENCE_S = 20.0
"""How long a client may take for a request or an answer, beside the time that its bytes take."""
_SLOWEST = 64 * 1024  # bytes per second
_HEAD_END = b"\r\n\r\n"
# However many zeros it begins with. Beyond 15 digits it is refused unread.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_UNTOLD = re.compile(rb"\r\n(?:transfer-encoding|expect):", re.IGNORECASE)


class Ahead(enum.Enum):
    """What reading ahead has come to."""

    MORE = "more has to come before a thread is of use"
    WHOLE = "a thread can go on without waiting"
    LONG = "a thread can go on, but may have to wait for the rest of the body"
    TOO_LONG = "a head without end"
    GONE = "the client hung up"


class ClientSocket(socket.socket):
    """A client's socket that was read ahead, and whose blocking reads and writes end when the client is too slow."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        super().setblocking(False)
        self._ahead = bytearray()
        self._given = 0
        self._stirring = select.poll()
        self._stirring.register(self.fileno(), select.POLLIN)
        self._left = b""
        self.begin()

    def setblocking(self, flag: bool, /) -> None:
        """Nothing: what may wait here waits as long as it decides itself.

        Gunicorn asks for this and for timeouts six times a request; each is a system call that lets go of the
        interpreter, which another thread is waiting for.
        """

    def settimeout(self, value: float | None, /) -> None:
        """Nothing either."""

    def begin(self) -> None:
        """A new request: what is left of the bytes read ahead belongs to it."""
        del self._ahead[: self._given]
        self._given = 0
        self._scanned = 0
        self._wanted: int | None = None  # bytes to read ahead, once the head is there
        self._whole = False  # whether they are all of the request
        self._head = 0  # bytes of the head, once it is there
        self._moved, self._waited = 0, 0.0
        self._answered = False

    @property
    def unserved(self) -> bool:
        """Whether bytes that were read ahead have not been read yet."""
        return self._given < len(self._ahead)

    def whole(self) -> tuple[bytes, bytes] | None:
        """(head, body) of a request that is here as a whole; None when some of it is missing, or was read already."""
        if not self._whole or self._given or self._wanted is None or len(self._ahead) < self._wanted:
            return None
        return bytes(self._ahead[: self._head]), bytes(self._ahead[self._head : self._wanted])

    def taken(self) -> None:
        """What `whole` gave counts as read."""
        self._given = self._wanted or 0

    def stirs(self, seconds: float) -> bool:
        """Whether the client sends something, or hangs up, within so many seconds."""
        return bool(self._stirring.poll(1000 * seconds))

    def read_ahead(self) -> Ahead:
        """Take what has arrived, without waiting."""
        if self._ahead and (ahead := self._come_to()) is not Ahead.MORE:
            return ahead
        try:
            data = super().recv(_READ_AHEAD)
        except BlockingIOError:
            return Ahead.MORE
        except OSError:
            return Ahead.GONE
        if not data:
            return Ahead.GONE
        self._ahead += data
        return self._come_to()

    def _come_to(self) -> Ahead:
        if self._enough():
            return Ahead.WHOLE if self._whole else Ahead.LONG
        return Ahead.TOO_LONG if self._wanted is None and len(self._ahead) > _LONGEST_HEAD else Ahead.MORE

    def _enough(self) -> bool:
        if self._wanted is None:
            end = self._ahead.find(_HEAD_END, max(0, self._scanned - len(_HEAD_END)))
            self._scanned = len(self._ahead)
            if end < 0:
                return False
            head = self._ahead[: end + len(_HEAD_END)]
            self._head = len(head)
            length = _LENGTH.search(head)
            # Of a body that does not tell its length, or waits to be invited, the thread takes care.
            told = not _UNTOLD.search(head)
            whole = len(head) + (int(length[1]) if length is not None and told else 0)
            self._wanted = min(whole, max(len(head), _READ_AHEAD))
            self._whole = told and self._wanted == whole
        return len(self._ahead) >= self._wanted

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """What was read ahead, else what the client sends in time.

        Raises ``ConnectionResetError`` when it is too slow, ``TimeoutError`` for what is missing of the body of a
        request that has its answer already.
        """
        if self.unserved:
            data = bytes(self._ahead[self._given : self._given + bufsize])
            self._given += len(data)
            return data
        try:
            with self._at_most(0 if self._answered else self._patience()):
                data = super().recv(bufsize, flags)
        except (TimeoutError, BlockingIOError):
            if self._answered:
                raise TimeoutError("not waiting for the body of an answered request") from None
            raise ConnectionResetError(errno.ECONNRESET, "the request comes too slowly") from None
        self._moved += len(data)
        return data

    @property
    def left(self) -> bool:
        """Whether `sendall` left some of an answer to `send_on`."""
        return bool(self._left)

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """Send all of it, but for the last 64 KiB that the client does not take at once: they are left to `send_on`.

        Raises ``BrokenPipeError`` when the client does not take it in time.
        """
        if not self._answered:
            self._answered, self._moved, self._waited = True, 0, 0.0
        rest = memoryview(data).cast("B")
        self._moved += rest.nbytes
        if self._left:
            rest, self._left = memoryview(self._left + rest), b""
        with suppress(BlockingIOError):
            # Nearly every answer fits into the socket's buffer.
            rest = rest[self.send(rest, flags) :]
        if rest.nbytes <= _LEFT:
            self._left = bytes(rest)
            return
        try:
            with self._at_most(self._patience()):
                super().sendall(rest, flags)
        except (TimeoutError, BlockingIOError):
            raise BrokenPipeError(errno.EPIPE, "the answer is taken too slowly") from None

    def send_on(self) -> bool:
        """Send what is left, without waiting; False when the client hung up."""
        try:
            self._left = self._left[self.send(self._left) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def ended(self) -> bool:
        """Whether the client hung up; what it still sends is thrown away."""
        try:
            return not super().recv(_READ_AHEAD)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def refuse(self, status: str) -> None:
        """Send an answer without a body, if that works at once."""
        with suppress(OSError):
            self.send(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())

    def _patience(self) -> float:
        return PATIENCE_S + self._moved / _SLOWEST - self._waited

    @contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        begun = time.monotonic()
        super().settimeout(max(seconds, 0.0))
        try:
            yield
        finally:
            self._waited += time.monotonic() - begun
            super().settimeout(0.0)
