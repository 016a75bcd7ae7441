"""A threaded gunicorn worker whose threads no client can hold: it reads a request ahead, then lends it a thread.

Gunicorn's own threaded worker (27.0) gives a connection to a thread with its first byte and waits there without limit:
as many clients as there are threads, each with one byte sent, stop it for good. It also says goodbye in its event loop,
up to two seconds for each client that does not hang up. Here

- the event loop collects the head and up to 128 KiB of the body, and gives up on who has not sent them in 20 s;
- a thread waits for the rest of a longer body, and for an answer to be taken, for 20 s and the time that the bytes take
  at 64 KiB/s, and only half of the threads wait for bodies; once the answer has begun, none waits for the body;
- the event loop says goodbye without waiting, and reads on for a while so that an early answer (401, 413) arrives.

What it cannot do: end a request on which the application itself works for ever; that is for the application's
deadlines. Plain HTTP/1.1 only: TLS belongs to a proxy in front.
"""

import enum
import errno
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from ml_backend.web.threads import Threads

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_READ_AHEAD = 128 * 1024
_LONGEST_HEAD = 64 * 1024
_PATIENCE_S = 20.0
_SLOWEST = 64 * 1024  # bytes per second
_LINGER_S, _MOST_LINGERING = 10.0, 200
_STOP_S = 2.0
_COMPLAIN_EVERY_S = 10.0
_HEARTBEAT_S = 1.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NOBODY_THERE = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED}
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
        self._moved, self._waited = 0, 0.0
        self._answered = False

    @property
    def unserved(self) -> bool:
        """Whether bytes that were read ahead have not been read yet."""
        return self._given < len(self._ahead)

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

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """Send all of it; raises ``BrokenPipeError`` when the client does not take it in time."""
        if not self._answered:
            self._answered, self._moved, self._waited = True, 0, 0.0
        rest = memoryview(data).cast("B")
        self._moved += rest.nbytes
        with suppress(BlockingIOError):
            # Nearly every answer fits into the socket's buffer.
            rest = rest[self.send(rest, flags) :]
        if not rest.nbytes:
            return
        try:
            with self._at_most(self._patience()):
                super().sendall(rest, flags)
        except (TimeoutError, BlockingIOError):
            raise BrokenPipeError(errno.EPIPE, "the answer is taken too slowly") from None

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
        return _PATIENCE_S + self._moved / _SLOWEST - self._waited

    @contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        begun = time.monotonic()
        super().settimeout(max(seconds, 0.0))
        try:
            yield
        finally:
            self._waited += time.monotonic() - begun
            super().settimeout(0.0)


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection; ``part`` is told to say goodbye to its socket."""

    def __init__(
        self, cfg: object, client: ClientSocket, address: object, server: object, part: Callable[[ClientSocket], None]
    ) -> None:
        super().__init__(cfg, client, address, server)
        self.data_ready = True
        self._part = part

    def close(self, graceful: bool = False) -> None:
        """Without waiting, either way."""
        if graceful:
            self._part(self.sock)
        else:
            super().close()


@dataclass(frozen=True, slots=True)
class Answered:
    """Stands for the future that gunicorn's worker expects when a request is over."""

    keep: bool

    def result(self) -> bool:
        """Whether the connection stays open."""
        return self.keep

    def cancelled(self) -> bool:
        """Never."""
        return False


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """The worker class for gunicorn; its methods run in the event loop's thread, but for `_answer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: dict[Connection, float] = {}  # since when, oldest first
        self._queue: deque[Connection] = deque()  # requests with long bodies that wait for a thread,
        self._long: set[Connection] = set()  # and those that have one
        self._lingering: dict[ClientSocket, float] = {}
        self._complained = self._notified = float("-inf")
        self._keeping = threading.RLock()  # for `keepalived_conns` and the poller's part in it

    def init_process(self) -> None:
        """Gunicorn makes the poller here, and does not return from it."""
        # What these wait for can be added to by another thread meanwhile; others would not notice.
        self._adds_while_it_waits = selectors.DefaultSelector.__name__ in {"EpollSelector", "KqueueSelector"}
        super().init_process()

    def get_thread_pool(self) -> Threads:
        """Gunicorn's own pool makes a future for each request, which costs more than the request's head."""
        return Threads(self.cfg.threads)

    def _answer(self, conn: Connection) -> None:
        # In one of the threads; only the event loop's thread may touch what this class holds, but for `_kept`.
        keep = False
        try:
            keep = self.handle(conn)
        finally:
            if not (keep and self._kept(conn)):
                self.method_queue.defer(self.finish_request, conn, Answered(keep))

    def _kept(self, conn: Connection) -> bool:
        """Whether the connection waits for its next request already, without the event loop having been woken up.

        That is what becomes of nearly every request, and waking the loop costs a tenth of one.
        """
        if conn in self._long or conn.sock.unserved or conn.parser.unreader.buf.getvalue():
            return False
        with self._keeping:
            # Under the lock: whoever is added while alive is still found by `_cap_keepalive`.
            if not (self.alive and self._adds_while_it_waits):
                return False
            conn.set_timeout()
            self.keepalived_conns.append(conn)
            try:
                self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))
            except (OSError, ValueError, KeyError):
                self.keepalived_conns.remove(conn)
                return False
        return True

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """A kept connection has its next request."""
        with self._keeping:
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
        self.enqueue_req(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close kept connections that have waited too long."""
        with self._keeping:
            super().murder_keepalived(force)

    def _cap_keepalive(self, deadline: float) -> None:
        with self._keeping:
            super()._cap_keepalive(deadline)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection; too few file descriptors are no reason to end the process."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._complain(f"cannot accept a connection: {error.strerror}")
                self._make_room()
            elif error.errno not in _NOBODY_THERE:
                raise
            return
        self.nr_conns += 1
        self.enqueue_req(Connection(self.cfg, ClientSocket(accepted), address, listener.getsockname(), self._part))

    def enqueue_req(self, conn: Connection) -> None:
        """Lend the connection a thread, but not before its next request has been read ahead."""
        conn.sock.begin()
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            # The parser holds the beginning of the next request already: only a thread can go on from there.
            self._go_on(conn, Ahead.LONG)
            return
        if (ahead := conn.sock.read_ahead()) is not Ahead.MORE:
            self._go_on(conn, ahead)
            return
        self._reading[conn] = time.monotonic()
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_ahead, conn))
        if len(self._reading) > self.worker_connections // 2:
            self._make_room()

    def _read_ahead(self, conn: Connection, client: ClientSocket) -> None:
        # Given up on earlier in the same turn of the loop, it may still be called.
        if conn in self._reading and (ahead := client.read_ahead()) is not Ahead.MORE:
            self._stop_reading(conn)
            self._go_on(conn, ahead)

    def _go_on(self, conn: Connection, ahead: Ahead) -> None:
        if ahead is Ahead.WHOLE:
            self.tpool.hand(partial(self._answer, conn))
            return
        if ahead is Ahead.LONG:
            self._queue.append(conn)
            self._lend_threads_to_long_ones()
            return
        if ahead is Ahead.TOO_LONG:
            conn.sock.refuse("431 Request Header Fields Too Large")
        self.nr_conns -= 1
        conn.close(graceful=ahead is Ahead.TOO_LONG)

    def _lend_threads_to_long_ones(self) -> None:
        while self._queue and len(self._long) < max(1, self.cfg.threads // 2):
            conn = self._queue.popleft()
            self._long.add(conn)
            self.tpool.hand(partial(self._answer, conn))

    def _stop_reading(self, conn: Connection) -> None:
        del self._reading[conn]
        self.poller.unregister(conn.sock)

    def _complain(self, what: str) -> None:
        """Once in a while only: whoever causes this could fill the log with it."""
        now = time.monotonic()
        if now - self._complained > _COMPLAIN_EVERY_S:
            self._complained = now
            self.log.warning(what)

    def _make_room(self) -> None:
        """Give up on the client that has taken longest to send a request, if there is one."""
        if self._reading:
            self._give_up(next(iter(self._reading)))
        else:
            time.sleep(0.02)  # descriptors come back when threads are done; until then do not spin

    def _give_up(self, conn: Connection) -> None:
        self._stop_reading(conn)
        if conn.sock.unserved:
            conn.sock.refuse("408 Request Timeout")
        self.nr_conns -= 1
        conn.close()

    def finish_request(self, conn: Connection, fs: object) -> None:
        """A thread is done with a request."""
        self._long.discard(conn)
        self._lend_threads_to_long_ones()
        super().finish_request(conn, fs)
        if conn.sock.fileno() >= 0 and conn.sock.unserved and conn in self.keepalived_conns:
            # A next request came along with this one: there is nothing for the poller to wake up on.
            self.on_client_socket_readable(conn, conn.sock)

    def notify(self) -> None:
        """Gunicorn calls this in every turn of the loop, at least once a second."""
        now = time.monotonic()
        if now - self._notified > _HEARTBEAT_S:
            self._notified = now
            super().notify()
        for conn, since in list(self._reading.items()):
            if now - since > (_PATIENCE_S if self.alive else _STOP_S) or not (self.alive or conn.sock.unserved):
                self._give_up(conn)
        for client, since in list(self._lingering.items()):
            if now - since <= _LINGER_S:
                break
            self._hang_up(client)

    def _part(self, client: ClientSocket) -> None:
        """Say goodbye, and go on reading for a while: closing with bytes unread could wipe out the answer."""
        try:
            client.shutdown(socket.SHUT_WR)
        except OSError:
            client.close()
            return
        self._lingering[client] = time.monotonic()
        self.poller.register(client, selectors.EVENT_READ, self._linger)
        if len(self._lingering) > _MOST_LINGERING:
            self._hang_up(next(iter(self._lingering)))

    def _linger(self, client: ClientSocket) -> None:
        if client in self._lingering and client.ended():
            self._hang_up(client)

    def _hang_up(self, client: ClientSocket) -> None:
        del self._lingering[client]
        self.poller.unregister(client)
        client.close()
