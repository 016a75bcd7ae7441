"""The process of a plain class, as seen from whoever asks it: started, asked, and ended with its last owner."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.errors import ModelError
from ml_backend.exit_status import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOOK_EVERY_S = 0.2
_LOADING_S = 600.0


class PlainFailed(ModelError):
    """The class raised something; ``trace`` is its traceback."""

    def __init__(self, message: str, trace: str = "") -> None:
        self.trace = trace
        super().__init__(message)


class PlainDied(ModelError):
    """Its process ended in the middle."""


class PlainProcess:
    """One fresh interpreter with the class in it. Threads may ask at once; they are answered one after the other.

    ``hello`` is what the child needs to know: model, uid, label_config, params, output. ``who`` is its answer.
    Raises `PlainFailed` when the class cannot be imported or made.
    """

    def __init__(self, hello: dict[str, Any], *, look: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ml_backend.processes", "plain", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._socket.settimeout(_LOOK_EVERY_S)
        self._end = weakref.finalize(self, _end, self._process, ours)
        try:
            self.who: dict[str, Any] = self._ask(hello, _LOADING_S, look)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None and self._end.alive

    def predict(
        self, tasks: list[dict[str, Any]], label_config: str, context: dict[str, Any] | None, *, timeout_s: float
    ) -> Any:  # noqa: ANN401 - JSON
        """A list of predictions for each task. Raises `PlainFailed`, `PlainDied`."""
        return self._ask(
            {"do": "predict", "tasks": tasks, "label_config": label_config, "context": context}, timeout_s, None
        )

    def fit(self, order: dict[str, Any], look: Callable[[], None]) -> Any:  # noqa: ANN401 - JSON
        """Call `fit`. ``look`` is called while it runs, several times a second, and may raise to give up on it."""
        return self._ask({"do": "fit", **order}, None, look)

    def close(self) -> None:
        """End it, whatever it does."""
        self._end()

    def _ask(self, order: dict[str, Any], timeout_s: float | None, look: Callable[[], None] | None) -> Any:  # noqa: ANN401
        until = None if timeout_s is None else time.monotonic() + timeout_s
        # Before its turn: what cannot be written is no fault of the process, which answers others.
        line = orjson.dumps(order) + b"\n"
        with self._turn(until, look):
            try:
                self._send(line, until)
                answer = self._receive(until, look)
            except OSError as error:
                raise PlainDied(self._how()) from error
            except BaseException:
                # What it may still say would be taken for the answer to the next question.
                self.close()
                raise
        if "error" in answer:
            raise PlainFailed(answer["error"], answer.get("trace", ""))
        return answer["ok"]

    @contextlib.contextmanager
    def _turn(self, until: float | None, look: Callable[[], None] | None) -> Iterator[None]:
        while not self._lock.acquire(timeout=_LOOK_EVERY_S):
            if until is not None and time.monotonic() > until:
                # No reason to end it: it works for somebody else.
                raise PlainFailed("it answers others, and did not come to this question in time")
            if look is not None:
                look()
        try:
            yield
        finally:
            self._lock.release()

    def _send(self, data: bytes, until: float | None) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                if self._process.poll() is not None:
                    raise OSError("it is gone") from None
                self._too_long(until)

    def _receive(self, until: float | None, look: Callable[[], None] | None) -> dict[str, Any]:
        parts: list[bytes] = []
        ended = False
        while True:
            try:
                part = self._socket.recv(1 << 20)
            except TimeoutError:
                if ended:
                    raise OSError("it is gone, and a process that it started holds on to its socket") from None
                self._too_long(until)
                # Looked for before the next turn: what it said last may lie in the socket still.
                ended = self._process.poll() is not None
                if look is not None:
                    look()
                continue
            if not part:
                raise OSError("it is gone")
            parts.append(part)
            if part.endswith(b"\n"):
                found: dict[str, Any] = orjson.loads(b"".join(parts))
                return found

    def _too_long(self, until: float | None) -> None:
        if until is not None and time.monotonic() > until:
            raise PlainDied("it did not answer in time")

    def _how(self) -> str:
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "its process does not answer any more"
        finally:
            self.close()
        return f"its process {in_words(status)}"


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
