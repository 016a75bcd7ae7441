"""A threaded gunicorn worker whose threads no client can hold: it reads a request ahead, then lends it a thread.

Gunicorn's own threaded worker (27.0) gives a connection to a thread with its first byte and waits there without limit:
as many clients as there are threads, each with one byte sent, stop it for good. It also says goodbye in its event loop,
up to two seconds for each client that does not hang up. Here

- the event loop collects the head and up to 128 KiB of the body, and gives up on who has not sent them in 20 s;
- a thread that has answered stays for two milliseconds, as long as half of the threads are free, in case the client's
  next request follows at once;
- a thread waits for the rest of a longer body, and for an answer to be taken, for 20 s and the time that the bytes take
  at 64 KiB/s, and only half of the threads wait for bodies; once the answer has begun, none waits for the body;
- the event loop sends the last 64 KiB of an answer, and so all of a small one, to who does not take it at once;
- the event loop says goodbye without waiting, and reads on for a while so that an early answer (401, 413) arrives;
- whoever comes when there are as many connections as there may be takes the place of one that waits.

What it cannot do: end a request on which the application itself works for ever; that is for the application's
deadlines. Plain HTTP/1.1 only: TLS belongs to a proxy in front.
"""

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from gunicorn import SERVER
from gunicorn.http.wsgi import base_environ
from gunicorn.workers.gthread import TConn, ThreadWorker

from ml_backend.web import client_socket, ordinary
from ml_backend.web.client_socket import Ahead, ClientSocket
from ml_backend.web.threads import Threads

_LINGER_S, _MOST_LINGERING = 10.0, 200
_STOP_S = 2.0
_COMPLAIN_EVERY_S = 10.0
_HEARTBEAT_S = 1.0
_HESITATION_S, _MOST_HESITATIONS = 0.0003, 4
_STAY_S = 0.002
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NOBODY_THERE = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED}
_WENT_AWAY = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


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
        self._queue: dict[Connection, float] = {}  # requests with long bodies that wait for a thread, since when,
        self._long: set[Connection] = set()  # and those that have one
        self._lent: set[Connection] = set()  # all that have a thread
        self._sending: dict[Connection, tuple[float, bool]] = {}  # since when, and whether they stay open
        self._lingering: dict[ClientSocket, float] = {}
        self._complained = self._notified = float("-inf")
        self._keeping = threading.RLock()  # for `keepalived_conns` and the poller's part in it
        self._writer = ordinary.Writer(SERVER)
        self._environ = {**base_environ(self.cfg), "wsgi.multithread": True, "wsgi.url_scheme": "http"}
        self._below = bool(os.environ.get("SCRIPT_NAME"))

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
            while keep and self._follows(conn):
                keep = self.handle(conn)
        finally:
            self._lent.discard(conn)
            if conn.sock.left and conn.sock.fileno() >= 0:
                self.method_queue.defer(self._send_on, conn, keep)
            elif not (keep and self._kept(conn)):
                self.method_queue.defer(self.finish_request, conn, Answered(keep))

    def handle(self, conn: Connection) -> bool:
        """Answer one request, in one of the threads; whether the connection stays open."""
        if (whole := conn.sock.whole()) is None or (environ := self._ordinary(conn, *whole)) is None:
            return bool(super().handle(conn))
        conn.init()
        conn.sock.taken()
        keep = bool(self.alive and self.cfg.keepalive) and len(self.keepalived_conns) < self.max_keepalived
        try:
            conn.sock.sendall(self._writer.answer(self.wsgi, environ, whole[1], keep=keep))
        except OSError as error:
            if error.errno not in _WENT_AWAY:
                self.log.exception("an answer could not be sent")
            return False
        except Exception as error:
            # Whatever it is: it must not end the thread. Gunicorn writes it down and answers 500.
            self.handle_error(None, conn.sock, conn.client, error)
            return False
        return keep

    def _ordinary(self, conn: Connection, head: bytes, body: bytes) -> dict[str, Any] | None:
        """What the application is told of an ordinary event; None when gunicorn is to read the request."""
        if self._below or not (isinstance(conn.client, tuple) and isinstance(conn.server, tuple)):
            return None
        if (told := ordinary.read(head, len(body))) is None:
            return None
        return {
            **self._environ,
            **told,
            "REMOTE_ADDR": conn.client[0],
            "REMOTE_PORT": str(conn.client[1]),
            "SERVER_NAME": conn.server[0],
            "SERVER_PORT": str(conn.server[1]),
            "gunicorn.socket": conn.sock,
        }

    def _follows(self, conn: Connection) -> bool:
        """Whether the client's next request came right after its answer, whole: then the same thread takes it.

        By way of the event loop it costs some system calls and two changes of thread more: a fifth of an event's time.
        """
        if conn in self._long or 2 * len(self._lent) > self.cfg.threads or not (self.alive and _is_idle(conn)):
            return False
        if not conn.sock.stirs(_STAY_S):
            return False
        conn.sock.begin()
        # What came in part stays read ahead: the event loop goes on from there.
        return conn.sock.read_ahead() is Ahead.WHOLE

    def _kept(self, conn: Connection) -> bool:
        """Whether the connection waits for its next request already, without the event loop having been woken up.

        That is what becomes of nearly every request, and waking the loop costs a tenth of one.
        """
        if conn in self._long or not _is_idle(conn):
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
            try:
                self.keepalived_conns.remove(conn)
            except ValueError:
                return  # given up on earlier in the same turn of the loop
            self.poller.unregister(client)
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
        if self.cfg.workers > 1 and (busy := len(self._reading) + len(self._lent)):
            # A process with nothing to do is to have it: whoever is awake is always the fastest, and a connection that
            # is kept alive stays where it is.
            time.sleep(_HESITATION_S * min(busy, _MOST_HESITATIONS))
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._complain(f"cannot accept a connection: {error.strerror}")
                if not self._make_room():
                    time.sleep(0.02)  # descriptors come back when threads are done; until then do not spin
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
            self._give_up(next(iter(self._reading)))

    def _read_ahead(self, conn: Connection, client: ClientSocket) -> None:
        # Given up on earlier in the same turn of the loop, it may still be called.
        if conn in self._reading and (ahead := client.read_ahead()) is not Ahead.MORE:
            self._stop_reading(conn)
            self._go_on(conn, ahead)

    def _go_on(self, conn: Connection, ahead: Ahead) -> None:
        if ahead is Ahead.WHOLE:
            self._lent.add(conn)
            self.tpool.hand(partial(self._answer, conn))
            return
        if ahead is Ahead.LONG:
            self._queue[conn] = time.monotonic()
            self._lend_threads_to_long_ones()
            return
        if ahead is Ahead.TOO_LONG:
            conn.sock.refuse("431 Request Header Fields Too Large")
        self._drop(conn, graceful=ahead is Ahead.TOO_LONG)

    def _lend_threads_to_long_ones(self) -> None:
        while self._queue and len(self._long) < max(1, self.cfg.threads // 2):
            conn = next(iter(self._queue))
            del self._queue[conn]
            self._long.add(conn)
            self._lent.add(conn)
            self.tpool.hand(partial(self._answer, conn))

    def _drop(self, conn: Connection, *, graceful: bool = False) -> None:
        self.nr_conns -= 1
        conn.close(graceful=graceful)

    def _stop_reading(self, conn: Connection) -> None:
        del self._reading[conn]
        self.poller.unregister(conn.sock)

    def _complain(self, what: str) -> None:
        """Once in a while only: whoever causes this could fill the log with it."""
        now = time.monotonic()
        if now - self._complained > _COMPLAIN_EVERY_S:
            self._complained = now
            self.log.warning(what)

    def _make_room(self) -> bool:
        """Part with the client that has been waited for longest, and for which no thread works; whether there was one.

        Whoever has just come, and has something to say, is the last to go.
        """
        with self._keeping:
            waiting: list[tuple[float, Callable[[], None]]] = []
            if self.keepalived_conns:
                waiting.append((self.keepalived_conns[0].timeout - self.cfg.keepalive, self._part_with_idle))
            for conn, since in islice(self._reading.items(), 1):
                waiting.append((since, partial(self._give_up, conn)))
            for conn, (since, _) in islice(self._sending.items(), 1):
                waiting.append((since, partial(self._stop_sending, conn)))
            for conn, since in islice(self._queue.items(), 1):
                waiting.append((since, partial(self._turn_away, conn)))
            if not waiting:
                return False
            min(waiting, key=itemgetter(0))[1]()
        return True

    def _part_with_idle(self) -> None:
        conn = self.keepalived_conns.popleft()
        self.poller.unregister(conn.sock)
        self._drop(conn)

    def _turn_away(self, conn: Connection) -> None:
        del self._queue[conn]
        conn.sock.refuse("503 Service Unavailable")
        self._drop(conn)

    def _give_up(self, conn: Connection) -> None:
        self._stop_reading(conn)
        if conn.sock.unserved:
            conn.sock.refuse("408 Request Timeout")
        self._drop(conn)

    def _send_on(self, conn: Connection, keep: bool) -> None:
        """A thread is done with a request whose answer has not been taken whole."""
        self._long.discard(conn)
        self._lend_threads_to_long_ones()
        self._sending[conn] = (time.monotonic(), keep)
        self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._takes_more, conn))

    def _takes_more(self, conn: Connection, client: ClientSocket) -> None:
        if conn not in self._sending:
            return  # given up on earlier in the same turn of the loop
        if not client.send_on():
            self._stop_sending(conn)
        elif not client.left:
            _, keep = self._sending.pop(conn)
            self.poller.unregister(client)
            self.finish_request(conn, Answered(keep))

    def _stop_sending(self, conn: Connection) -> None:
        del self._sending[conn]
        self.poller.unregister(conn.sock)
        self._drop(conn)

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
            if now - since > (client_socket.PATIENCE_S if self.alive else _STOP_S) or not (
                self.alive or conn.sock.unserved
            ):
                self._give_up(conn)
        for conn, (since, _) in list(self._sending.items()):
            if now - since <= client_socket.PATIENCE_S:
                break
            self._stop_sending(conn)
        if self.alive and self.nr_conns >= self.worker_connections:
            self._make_room()
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


def _is_idle(conn: Connection) -> bool:
    """Whether the answer is sent, and nothing of a next request has been read."""
    return not (conn.sock.left or conn.sock.unserved or conn.parser.unreader.buf.getvalue())
