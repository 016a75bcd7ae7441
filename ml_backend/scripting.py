"""A Redis client that runs scripts by the shortest way: each event is one script, and an annotator waits for it."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import hiredis
import redis
from redis.connection import DefaultParser

if TYPE_CHECKING:
    from redis.connection import ConnectionInterface

_MORE: Final = object()


class ScriptingRedis(redis.Redis):
    """redis-py's client; only ``evalsha`` does without its layers (pool, hooks, counters), which cost 50 us a call.

    Connections for scripts are kept apart from the pool's. A connection that Redis closed is found out by the call and
    made anew, once, as the pool would. Safe to share between threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: list[_Line] = []

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Run a script that Redis has. Raises what redis-py raises."""
        command = hiredis.pack_command(("EVALSHA", sha, numkeys, *keys_and_args))
        try:
            line = self._idle.pop()
        except IndexError:
            line = _Line(self.connection_pool.make_connection())
        try:
            try:
                answer = line.ask(command)
            except redis.ConnectionError:
                # It may have been closed while it was idle; what it sent may have arrived, which all scripts can bear.
                line.close()
                answer = line.ask(command)
        except redis.ResponseError:
            self._idle.append(line)
            raise
        except BaseException:
            line.close()
            self._idle.append(line)
            raise
        self._idle.append(line)
        return answer

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()
        super().close()


class _Line:
    """A connection that redis-py opens, with its login and its timeout; what follows goes over the bare socket.

    The timeout is the kernel's: with Python's own, every read and every write is two calls, and each of these lets
    another thread take the interpreter.
    """

    def __init__(self, connection: ConnectionInterface) -> None:
        self._connection: Any = connection
        self._socket: Any = None

    def ask(self, command: bytes) -> Any:  # noqa: ANN401 - whatever the script returns
        """Send a command, and return the answer. Raises what redis-py raises."""
        if self._socket is None:
            self._open()
        try:
            self._socket.sendall(command)
            while (answer := self._reader.gets()) is _MORE:
                data = self._socket.recv(65536)
                if not data:
                    raise redis.ConnectionError("Connection closed by server.")
                self._reader.feed(data)
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            raise redis.ConnectionError(f"Error while asking: {error}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _open(self) -> None:
        self._connection.connect()
        # Private, but there is no other way to it; the name is as old as redis-py.
        found = self._connection._sock
        if type(found) is socket.socket and (seconds := found.gettimeout()):
            timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
            found.settimeout(None)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._socket = found
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE
        )

    def close(self) -> None:
        """Hang up; the next question opens it anew."""
        self._socket = None
        self._connection.disconnect()
