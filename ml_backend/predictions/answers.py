"""From whatever a model returns to what Label Studio takes: one list of predictions for each task, nothing invalid."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_backend.errors import RunEnded
from ml_backend.jsonable import jsonable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.examples import JsonObject
    from ml_backend.settings import Strategy

log = logging.getLogger(__name__)

_FIRST_CHUNK = 1  # how long a task takes is not known yet, and a request has a deadline
_LARGEST_CHUNK = 4096
_CHUNK_S = 5.0


class _Invalid(ValueError):
    """What a model returned is no answer for the tasks it was given."""


@dataclass
class Answering:
    """Asks a model about tasks in chunks, until a deadline, and finds the tasks it cannot answer.

    ``ask`` gets tasks and returns the model's raw answer, ``version`` becomes each prediction's ``model_version``,
    ``deadline`` is on ``time.monotonic``'s clock: tasks that are not done by then stay without a prediction.
    ``strategy`` is what ranks them (`rank`).
    """

    ask: Callable[[list[JsonObject]], object]
    version: str
    deadline: float
    strategy: Strategy = "margin"
    _failed: int = field(default=0, init=False)
    _first_error: str = field(default="", init=False)

    def answers(self, tasks: Sequence[JsonObject]) -> list[list[JsonObject]]:
        """One list of predictions for each task, in order; empty where there is none. Raises only `RunEnded`."""
        done: list[list[JsonObject]] = []
        size = _FIRST_CHUNK
        while len(done) < len(tasks):
            began = time.monotonic()
            if began >= self.deadline:
                log.warning(
                    "%s: time is up: %d of %d tasks get no prediction", self.version, len(tasks) - len(done), len(tasks)
                )
                break
            chunk = list(tasks[len(done) : len(done) + size])
            done += self._chunk(chunk)
            took = max(time.monotonic() - began, 1e-6)
            # Large chunks are what vectorised models are fast with, but none may outlast what is left of the time.
            fits = min(_CHUNK_S, (self.deadline - time.monotonic()) / 2) * len(chunk) / took
            size = max(1, min(size * 8, _LARGEST_CHUNK, int(fits)))
        if self._failed:
            log.warning(
                "%s: %d of %d tasks could not be predicted; first: %s",
                self.version,
                self._failed,
                len(tasks),
                self._first_error,
            )
        return done + [[] for _ in range(len(tasks) - len(done))]

    def _chunk(self, tasks: list[JsonObject]) -> list[list[JsonObject]]:
        if time.monotonic() >= self.deadline:
            return [[] for _ in tasks]
        # A model author's code may raise anything.
        try:
            return normalised(self.ask(tasks), len(tasks), self.version, self.strategy)
        except RunEnded:
            raise  # a worker that is asked to stop says so wherever the program is, in the model too
        except Exception as error:
            if len(tasks) == 1:
                self._failed += 1
                self._first_error = self._first_error or f"task {tasks[0].get('id')}: {type(error).__name__}: {error}"
                return [[]]
        # One bad task must not take the others' predictions along: halve until it stands alone.
        middle = len(tasks) // 2
        return self._chunk(tasks[:middle]) + self._chunk(tasks[middle:])


def normalised(answer: object, expected: int, version: str, strategy: Strategy = "margin") -> list[list[JsonObject]]:
    """A model's answer to ``expected`` tasks as plain JSON: lists of ``{"result", "score", "model_version"}``.

    Takes a list with a prediction, a list of predictions or nothing (``[]``, ``{}``, None) for each task, or an object
    with such a list under ``predictions`` (a `ModelResponse`) or ``results``; numpy values become plain ones.
    A missing score becomes 0.0, since Label Studio orders by it. Raises `ValueError` when it is something else.
    """
    items: list[Any] = jsonable(_listed(answer))
    if len(items) != expected:
        raise _Invalid(f"{len(items)} predictions for {expected} tasks")
    return [[_prediction(one, version, strategy) for one in _several(item)] for item in items]


def _listed(answer: object) -> list[object]:
    if isinstance(answer, Mapping):
        answer = answer.get("results", answer.get("predictions"))
    elif (held := getattr(answer, "predictions", None)) is not None:
        answer = held
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise _Invalid(f"predict returned {type(answer).__name__}, not a list")
    return list(answer)


def _several(item: object) -> list[object]:
    if not item:
        return []
    return item if isinstance(item, list) else [item]


def rank(prediction: Mapping[str, Any], strategy: Strategy) -> float:
    """What Label Studio orders by, the lowest first (fact 16); never null, since nulls come before everything.

    ``margin``: the prediction's own score. ``confidence``: that of its least sure region. ``priority``: what the model
    gives beside the score under that name. Where that is not there or no number: the own score, else 0.
    """
    own = _number(prediction.get("score"))
    if strategy == "confidence":
        sure = [score for region in prediction["result"] if (score := _number(region.get("score"))) is not None]
        chosen = min(sure, default=None)
    else:
        chosen = _number(prediction.get("priority")) if strategy == "priority" else None
    return next((score for score in (chosen, own) if score is not None), 0.0)


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _prediction(one: object, version: str, strategy: Strategy) -> JsonObject:
    if not isinstance(one, dict):
        raise _Invalid(f"a prediction is {type(one).__name__}, not an object")
    result = one.get("result")
    if not isinstance(result, list) or not all(isinstance(region, dict) for region in result):
        raise _Invalid("a prediction's result is not a list of regions")
    return {"result": result, "score": rank(one, strategy), "model_version": version}
