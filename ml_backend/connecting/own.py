"""This backend as its own commands find it: where it listens, and the login that it asks for."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from ml_backend.connecting.addresses import EVERYWHERE, LOOPBACK, bare, candidates, in_url, login_of, without_login
from ml_backend.errors import BadInput, RefitError

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend.connecting.addresses import Login
    from ml_backend.settings import Settings

USER = "label-studio"
_SERVICE = "ml-backend"
"""Its name in the compose file that comes with it."""


@dataclass(frozen=True, slots=True)
class Own:
    """``host`` and ``port`` are what it binds to; ``passwords`` all that it takes, the present one included."""

    host: str
    port: int
    login: Login | None = field(repr=False)
    passwords: frozenset[str] = field(repr=False)
    url: str | None = None
    """Where Label Studio reaches it, if the operator said so (``ML_BACKEND_URL``)."""

    @property
    def here(self) -> str:
        """Where this machine reaches it."""
        host = "localhost" if self.host in EVERYWHERE | LOOPBACK else self.host
        return f"http://{in_url(host)}:{self.port}"

    def addresses(self, label_studio_url: str, given: str | None = None) -> list[str]:
        """Where Label Studio may reach it, the likeliest first; one only where it was ``given`` or set.

        Raises `BadInput` for one that is no URL, or names credentials that this backend does not take.
        """
        if given is not None or self.url is not None:
            name, one = ("--url", given) if given is not None else ("ML_BACKEND_URL", self.url or "")
            if not bare(one):
                raise BadInput(name, "must begin with http:// or https:// and name a host")
            login = login_of(one)
            if login is not None and (self.login is None or login[1] not in self.passwords):
                raise BadInput(name, "holds credentials that this backend does not take; leave them out")
            return [without_login(one)]
        outward = _outward(label_studio_url) if self.host in EVERYWHERE else []
        return candidates(self.host, self.port, label_studio_url, outward)


def own(settings: Settings) -> Own:
    """What the settings say, and what the backend that was last started in the data folder left there."""
    host, port = settings.host, settings.port
    with suppress(OSError, ValueError, KeyError, TypeError):
        left = orjson.loads(_address_file(settings).read_bytes())
        host, port = str(left["host"]), int(left["port"])
    login = None if settings.insecure else settings.credentials
    passwords = settings.passwords
    if login is None and not settings.insecure:
        with suppress(OSError, UnicodeDecodeError):
            if secret := _secret_file(settings).read_text(encoding="ascii").strip():
                login, passwords = (USER, secret), (secret, *passwords)
    return Own(host, port, login, frozenset(passwords), settings.url)


def keep_address(settings: Settings, model: str | None) -> None:
    """Leave a note of where it listens and which model it runs, for commands that are run beside it."""
    with suppress(OSError):
        # Who cannot write there (a read-only container) sets the port in the environment anyway.
        file = _address_file(settings)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_bytes(orjson.dumps({"host": settings.host, "port": settings.port, "model": model}))


def kept_model(settings: Settings) -> str | None:
    """The model that the backend of this data folder was last started with; None for the shipped ones."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = orjson.loads(_address_file(settings).read_bytes())["model"]
        return found if isinstance(found, str) else None
    return None


def kept_secret(settings: Settings) -> str:
    """The password of this data folder, made by the first who asks; readable by its owner only. Raises `RefitError`."""
    path = _secret_file(settings)
    try:
        with suppress(FileNotFoundError):
            if kept := path.read_text(encoding="ascii").strip():
                return kept
        # Two that start at once must print the same password; one that was killed here left an empty file.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            kept = file.read().strip()
            if not kept:
                kept = secrets.token_urlsafe(24)
                file.write(kept + "\n")
            return kept
    except (OSError, UnicodeDecodeError) as error:
        raise RefitError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _secret_file(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "secret"


def _address_file(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "address.json"


def _outward(label_studio_url: str) -> list[str]:
    """Names and addresses by which others on the way to Label Studio may know this machine."""
    parts = urlsplit(label_studio_url)
    found: list[str] = []
    with suppress(OSError, ValueError):
        address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)[0]
        with socket.socket(address[0], socket.SOCK_DGRAM) as probe:
            probe.connect(address[4])  # sends nothing: it only asks for the way
            outward = str(probe.getsockname()[0])
        # A container's address changes when it is made anew, its service's name does not.
        with suppress(OSError):
            if outward in {str(one[4][0]) for one in socket.getaddrinfo(_SERVICE, None)}:
                found.append(_SERVICE)
        if outward not in LOOPBACK:
            found.append(outward)
    return found
