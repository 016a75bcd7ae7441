"""A predict worker: the process that holds the models where web processes must not, and answers what they ask."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.predictions.desk import Desk
    from ml_backend.predictions.server import PredictionServer

log = logging.getLogger(__name__)

_WAIT_S = 1
_AWAY_S = 0.5
_MARGIN_S = 0.2
"""Kept back of the time that is left, for the way back."""


class PredictWorker:
    """Takes questions from the desk and answers them with a `PredictionServer`, until it is stopped.

    ``check`` says why the model does not support a label config. ``threads`` questions are worked on at once, so that
    a model that is loaded for one project does not keep another waiting.
    """

    def __init__(
        self, server: PredictionServer, desk: Desk, check: Callable[[str], str | None], *, threads: int = 2
    ) -> None:
        self._server = server
        self._desk = desk
        self._check = check
        self._threads = threads
        self._stop = threading.Event()

    def stop(self) -> None:
        """Take nothing more; what is being worked on is answered."""
        self._stop.set()

    def run(self) -> None:
        """Answer until `stop`. Redis may come and go meanwhile."""
        with self._server:
            process = self._server.process
            threads = [threading.Thread(target=self._answer, args=(process,)) for _ in range(self._threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            try:
                self._desk.leave(process)
            except Unavailable:
                log.debug("Redis is away; what was taken counts as lost when the beats stop")

    def _answer(self, process: str) -> None:
        away = False
        while not self._stop.is_set():
            try:
                taken = self._desk.take(process, _WAIT_S)
                away = False
                if taken is not None:
                    name, payload, left_s = taken
                    self._desk.answer(process, name, self._answered_or_none(payload, left_s))
            except Unavailable as error:
                if not away:
                    log.warning("predictions wait for Redis: %s", error)
                away = True
                self._stop.wait(_AWAY_S)
            except Exception:
                log.exception("a question could not be taken")

    def _answered_or_none(self, payload: bytes, left_s: float) -> bytes:
        try:
            return self._answered(payload, left_s)
        except Unavailable:
            raise
        except Exception:
            # Whatever the question was: who asked must not wait until the deadline, and the next one must be answered.
            log.exception("a question could not be answered")
            return b"{}"

    def _answered(self, payload: bytes, left_s: float) -> bytes:
        began = time.monotonic()
        question = orjson.loads(payload)
        match question:
            case {"kind": "predict", "uid": str(uid), "tasks": list(tasks), "label_config": str(config)}:
                context = question.get("context")
                made = self._server.predict(
                    uid,
                    tasks,
                    config,
                    context if isinstance(context, dict) else None,
                    max(0.0, left_s - _MARGIN_S - (time.monotonic() - began)),
                )
                answer: dict[str, Any] = {"answers": made}
            case {"kind": "check", "label_config": str(config)}:
                answer = {"reason": self._why_not(config)}
            case {"kind": "prepare", "uid": str(uid)}:
                self._server.served(uid)  # which has what is not loaded loaded
                answer = {}
            case _:
                log.warning("dropped a question that is none of ours")
                answer = {}
        return orjson.dumps(answer)

    def _why_not(self, label_config: str) -> str | None:
        try:
            return self._check(label_config)
        except Exception as error:
            # The model author's code.
            log.exception("check() of the model failed")
            return f"its check failed with {type(error).__name__}"
