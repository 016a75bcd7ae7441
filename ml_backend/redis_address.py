"""Redis clients from one address: TCP, TLS, a Unix socket, or the master that Sentinels name.

``redis://``, ``rediss://`` (TLS) and ``unix://`` are redis-py's own, ACL user, password and query included, for
instance ``rediss://refit:secret@redis.example:6380/0?ssl_ca_certs=/etc/ca.pem``. With Sentinel::

    redis+sentinel://user:password@sentinel-1:26379,sentinel-2:26379/mymaster/0

User and password are those of Redis; the Sentinels' own go into the query (``sentinel_username``,
``sentinel_password``). ``rediss+sentinel://`` speaks TLS with both, and takes redis-py's ``ssl_…`` in the query too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

from ml_backend.errors import SettingsError
from ml_backend.scripting import ScriptingRedis

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_PLAIN = ("redis", "rediss", "unix")
_PORT = 26379


def client_of(address: str, **options: Any) -> ScriptingRedis:
    """A client; it connects when it is first used. ``options`` are redis-py's.

    Raises `SettingsError` for an address that is none; its text never repeats the address, which holds secrets.
    """
    try:
        parts = urlsplit(address)
        if parts.scheme in _SENTINEL:
            return _through_sentinels(parts, options)
        if parts.scheme not in _PLAIN:
            raise SettingsError("REDIS_URL", f"must begin with one of {', '.join(f'{one}://' for one in _all())}")
        client = cast("ScriptingRedis", ScriptingRedis.from_url(address, **options))
        # A query that redis-py does not know shows only here.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise SettingsError(
            "REDIS_URL", f"is not an address that redis-py can read: {_without(address, error)}"
        ) from None
    return client


def _all() -> tuple[str, ...]:
    return (*_PLAIN, *_SENTINEL)


def _through_sentinels(parts: SplitResult, options: dict[str, Any]) -> ScriptingRedis:
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not hosts or not service:
        raise SettingsError("REDIS_URL", "must be redis+sentinel://host:port,host:port/name-of-the-master/database")
    secure = parts.scheme.startswith("rediss")
    query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    own = {name.removeprefix("sentinel_"): query.pop(name) for name in list(query) if name.startswith("sentinel_")}
    # redis-py's own reader knows the types of what may stand in a query.
    told = parse_url(f"{'rediss' if secure else 'redis'}://host/{int(database or 0)}?{urlencode(query)}")  # type: ignore[no-untyped-call]
    told.pop("host", None)
    tls = {name: value for name, value in told.items() if name.startswith("ssl")}
    told.pop("connection_class", None)
    user, _, password = login.partition(":")
    credentials = {"username": unquote(user) or None, "password": unquote(password) or None}
    sentinels = [_host_and_port(one) for one in hosts.split(",")]
    finder = Sentinel(sentinels, sentinel_kwargs={**options, **own, **tls, "ssl": secure})  # type: ignore[no-untyped-call]
    pool = _ThroughSentinels(  # type: ignore[no-untyped-call]
        service, finder, check_connection=False, **{**options, **credentials, **told, "ssl": secure}
    )
    client = ScriptingRedis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


class _ThroughSentinels(SentinelConnectionPool):
    """Its end is that of its connections to the sentinels too."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.connection_pool.disconnect()


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), _PORT
    return host.strip("[]"), int(port)


def _without(address: str, error: Exception) -> str:
    """The error's text without what may be secret in an address."""
    try:
        login = urlsplit(address).netloc.rpartition("@")[0]
    except ValueError:
        # Its text holds what it could not read, and where the login ends in that nobody can tell.
        return "host, port or a character in it is wrong; percent-encode what stands in the password"
    text = str(error)
    for secret in {address, login, *login.split(":"), *(unquote(one) for one in login.split(":"))} - {""}:
        text = text.replace(secret, "***")
    return text
