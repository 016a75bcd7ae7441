"""A Redis client that runs scripts by the shortest way: each event is one script, and an annotator waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis
import redis

if TYPE_CHECKING:
    from redis.connection import ConnectionInterface


class ScriptingRedis(redis.Redis):
    """redis-py's client; only ``evalsha`` does without its layers (pool, hooks, counters), which cost 50 us a call.

    Connections for scripts are kept apart from the pool's. A connection that Redis closed is found out by the call and
    made anew, once, as the pool would. Safe to share between threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: list[ConnectionInterface] = []

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Run a script that Redis has. Raises what redis-py raises."""
        command = [hiredis.pack_command(("EVALSHA", sha, numkeys, *keys_and_args))]
        fresh = False
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connection_pool.make_connection()
            fresh = True
        try:
            try:
                if fresh:
                    connection.connect()  # type: ignore[no-untyped-call]
                answer = _ask(connection, command)
            except redis.ConnectionError:
                # It may have been closed while it was idle; what it sent may have arrived, which all scripts can bear.
                # Behind Sentinels only `connect` asks where the master is now.
                connection.disconnect()  # type: ignore[no-untyped-call]
                connection.connect()  # type: ignore[no-untyped-call]
                answer = _ask(connection, command)
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().disconnect()  # type: ignore[no-untyped-call]
        super().close()


def _ask(connection: ConnectionInterface, command: list[bytes]) -> Any:  # noqa: ANN401 - whatever the script returns
    connection.send_packed_command(command, check_health=False)  # type: ignore[no-untyped-call]
    return connection.read_response()
