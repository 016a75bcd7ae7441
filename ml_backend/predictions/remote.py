"""Predictions that are made elsewhere: a web process hands them to predict workers, and never loads a model itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson

from ml_backend.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ml_backend.examples import JsonObject
    from ml_backend.predictions.desk import Desk
    from ml_backend.predictions.presence import LoadError

log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Parts of one request that wait or are worked on at a time: others' requests come in between."""
_FIRST_PART, _LARGEST_PART = 32, 1024
_PART_BYTES = 1 << 20
_SLICE_S = 0.5
_FULL_S = 0.05
_FULL_FOR_S = 1.0
"""How long a request waits for a place where too many wait already: it holds a thread that events need."""
_NOBODY_S = 5.0
"""How long a predict worker may take to come back before a request does without."""
_CHECK_S = 1.0
_PREPARE_S = 60.0
_NAMED = 4096


class Standing(Protocol):
    """What is served by whom: an unstarted `PredictionServer` knows."""

    def served_with(self, uid: str, fields: Sequence[str]) -> tuple[str | None, tuple[str | None, ...]]:
        """The version to name, and ``fields`` of the project. Raises `Unavailable`."""
        ...

    def errors(self, uid: str) -> list[LoadError]:
        """Versions that could not be loaded. Raises `Unavailable`."""
        ...


@dataclass
class _Asking:
    """One request under way: its answers so far, and which of its parts are out (id to where the part begins)."""

    answers: list[list[JsonObject]]
    parts: Iterator[tuple[int, int, bytes]]
    deadline: float
    out: dict[str, tuple[int, int]] = field(default_factory=dict)
    alone_since: float | None = None
    full_since: float | None = None
    lost: int = 0

    def take(self, name: str, answer: bytes) -> int:
        """Take the answer to a part that was out; how many tasks stay without a prediction since it is none."""
        begin, count = self.out.pop(name)
        answers = _read(answer).get("answers")
        if not isinstance(answers, list) or len(answers) != count or not all(isinstance(one, list) for one in answers):
            return count
        self.answers[begin : begin + count] = answers
        return 0


class RemotePredictions:
    """Has the interface of `PredictionServer`.

    ``standing`` says what is served, from what the predict workers say of themselves; ``desk`` must be able to wait
    for longer than half a second.
    """

    def __init__(self, standing: Standing, desk: Desk) -> None:
        self._standing = standing
        self._desk = desk
        self._prepared: set[tuple[str, str]] = set()

    def start(self) -> Self:
        """Nothing is loaded here, so there is nothing to follow."""
        return self

    def close(self) -> None:
        """Close the connection on which answers are waited for."""
        self._desk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(
        self,
        uid: str,
        tasks: Sequence[JsonObject],
        label_config: str = "",
        context: dict[str, Any] | None = None,
        deadline_s: float = 80.0,
    ) -> list[list[JsonObject]]:
        """One list of predictions for each task, in order; empty where there is none, where a worker died over it, and
        for what is not done after ``deadline_s`` seconds, however long a model takes; soon where too many wait already.
        Never raises for what goes wrong elsewhere.
        """
        question = {"kind": "predict", "uid": uid, "label_config": label_config, "context": context}
        asking = _Asking([[] for _ in tasks], _parts(question, tasks), time.monotonic() + deadline_s)
        try:
            self._ask(asking)
        except Unavailable as error:
            log.warning("project %s: predictions cannot be asked for: %s", uid, error)
        if asking.lost:
            log.warning(
                "project %s: %d of %d tasks get no prediction: a worker died over them", uid, asking.lost, len(tasks)
            )
        return asking.answers

    def served(self, uid: str) -> str | None:
        """The version to name in `/setup`: the promoted one once every live predict worker serves it, until then the
        one before; None before the first, and without Redis.
        """
        try:
            return self.served_with(uid, ())[0]
        except Unavailable as error:
            log.warning("project %s: what the predict workers serve is not known: %s", uid, error)
            return None

    def served_with(self, uid: str, fields: Sequence[str]) -> tuple[str | None, tuple[str | None, ...]]:
        """`served`, and ``fields`` of the project as the state keeps them. Raises `Unavailable`."""
        name, found = self._standing.served_with(uid, fields)
        if name is not None and (uid, name) not in self._prepared:
            self._prepare(uid, name)
        return name, found

    def errors(self, uid: str) -> list[LoadError]:
        """Versions that a live predict worker could not load, and why. Raises `Unavailable`."""
        return self._standing.errors(uid)

    def check(self, label_config: str) -> str | None:
        """Why the model does not support a label config; None when it does. Raises `Unavailable` when nobody says."""
        name = self._desk.put(orjson.dumps({"kind": "check", "label_config": label_config}), _CHECK_S)
        found = self._desk.wait([name], _CHECK_S) if name is not None else None
        if found is None:
            if name is not None:
                self._desk.give_up([name])
            raise Unavailable("no predict worker says whether the model supports this label config")
        reason = _read(found[1]).get("reason")
        return reason if isinstance(reason, str) else None

    def _prepare(self, uid: str, name: str) -> None:
        """Have a worker load what is about to be asked for; once for each version."""
        if len(self._prepared) >= _NAMED:
            self._prepared.clear()
        self._prepared.add((uid, name))
        self._desk.put(orjson.dumps({"kind": "prepare", "uid": uid}), _PREPARE_S)

    def _ask(self, asking: _Asking) -> None:
        waiting = next(asking.parts, None)
        try:
            while (left := asking.deadline - time.monotonic()) > 0 and (waiting is not None or asking.out):
                while waiting is not None and len(asking.out) < _AT_ONCE:
                    begin, count, payload = waiting
                    name = self._desk.put(payload, left)
                    if name is None:
                        break
                    asking.out[name] = begin, count
                    asking.full_since = None
                    waiting = next(asking.parts, None)
                if not asking.out:
                    now = time.monotonic()
                    asking.full_since = asking.full_since or now
                    if now - asking.full_since >= _FULL_FOR_S:
                        log.warning("too many predictions are waited for: the predict workers cannot keep up")
                        break
                    time.sleep(min(_FULL_S, left))
                elif not self._collect(asking, min(_SLICE_S, left)) and self._is_hopeless(asking):
                    break
        finally:
            self._desk.give_up(asking.out)

    def _collect(self, asking: _Asking, seconds: float) -> bool:
        """Take one answer, if one comes in time."""
        found = self._desk.wait(asking.out, seconds)
        if found is None:
            return False
        asking.alone_since = None
        asking.take(*found)
        return True

    def _is_hopeless(self, asking: _Asking) -> bool:
        """Whether nobody is there to answer; gives up what a dead worker had taken on the way."""
        fates = {name: self._desk.fate(name) for name in asking.out}
        for name in [one for one, fate in fates.items() if fate == "lost"]:
            # It may have been answered between the two looks.
            found = self._desk.wait([name], 0.01)
            asking.lost += asking.take(name, found[1] if found is not None else b"")
        if "nobody" not in fates.values():
            asking.alone_since = None
            return False
        now = time.monotonic()
        asking.alone_since = asking.alone_since or now
        if now - asking.alone_since < _NOBODY_S:
            return False
        log.warning("no predict worker is there: start one with `ml-backend worker`")
        return True


def _parts(question: JsonObject, tasks: Sequence[JsonObject]) -> Iterator[tuple[int, int, bytes]]:
    """(where it begins, how many tasks, the payload) of each part: small ones first, none much above a megabyte."""
    head = orjson.dumps(question)[:-1] + b',"tasks":['
    size, begin = _FIRST_PART, 0
    while begin < len(tasks):
        some: list[bytes] = []
        weight = 0
        while begin + len(some) < len(tasks) and len(some) < size and weight < _PART_BYTES:
            some.append(orjson.dumps(tasks[begin + len(some)]))
            weight += len(some[-1])
        yield begin, len(some), head + b",".join(some) + b"]}"
        begin += len(some)
        size = min(size * 4, _LARGEST_PART)


def _read(answer: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
