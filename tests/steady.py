"""A steady stream of predictions: a few connections that ask over and over, and remember when, how long and by whom."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it began (monotonic), the seconds it took, its status, and the versions in its answer."""

    began: float
    took: float
    status: int
    versions: tuple[str, ...]


@dataclass
class Steady:
    """Asks from entering to leaving; ``answers`` grows meanwhile. A connection that breaks is status 0."""

    port: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int = 4
    answers: list[Answer] = field(default_factory=list, init=False)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.connections)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": len(self.body)}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **self.headers}.items())
        message = f"POST /predict HTTP/1.1\r\n{head}\r\n".encode() + self.body
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while not self._stop.is_set():
                        began = time.monotonic()
                        connection.sendall(message)
                        answer = http.client.HTTPResponse(connection)
                        answer.begin()
                        said = answer.read()
                        took = time.monotonic() - began
                        self.answers.append(Answer(began, took, answer.status, _versions(answer.status, said)))
            except (OSError, http.client.HTTPException):
                self.answers.append(Answer(began, time.monotonic() - began, 0, ()))


def _versions(status: int, said: bytes) -> tuple[str, ...]:
    if status != 200:
        return ()
    return tuple(one["model_version"] for predictions in json.loads(said)["results"] for one in predictions)
