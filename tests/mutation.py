"""Mutations of what Label Studio sends: wrong values in wrong places, deep, huge and missing ones, and broken bytes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import orjson

from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    Way = Callable[[random.Random], Any]

WAYS: tuple[Way, ...] = (
    lambda dice: dice.choice([None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**64 - 1, -(2**63), 1.5, 1e300]),
    lambda dice: dice.choice(
        ["", " ", "0", "5", "\0", "\r\nX: y", "\x1b[31m", "../../etc/passwd", "ü" * 300, "9" * 400]
    ),
    lambda dice: dice.choice(["ANNOTATION_CREATED", "TASKS_DELETED", "START_TRAINING", "5.1795333883", "<View/>"]),
    lambda dice: dice.choice(
        ["2026-11-22T07:51:23Z", "1969-01-01T00:00:00", "9999-12-31T23:59:59.999999Z", "T", "now"]
    ),
    lambda dice: dice.choice([[], {}, [[]], [{}], {"": None}, {"id": 1}, [1, "2", None], {"__proto__": {}}]),
    lambda dice: [dice.randrange(10) for _ in range(dice.randrange(50))],
    lambda dice: _nested(dice.randrange(300)),
)


def bodies() -> list[dict[str, Any]]:
    """What mutations begin with: every payload of the pages, and the recorded ones that are not huge."""
    recorded = [one.body for one in samples.requests() if one.body and len(orjson.dumps(one.body)) < 20_000]
    return [*samples.pages().values(), *recorded]


def mutated(body: dict[str, Any], dice: random.Random) -> Any:
    """A copy with one to four places changed; now and then the whole of it is something else."""
    copy = orjson.loads(orjson.dumps(body))
    if dice.random() < 0.02:
        return dice.choice(WAYS)(dice)
    for _ in range(dice.randrange(1, 5)):
        _change(copy, dice)
    return copy


def broken(data: bytes, dice: random.Random) -> bytes:
    """Bytes with a piece cut out, doubled, or replaced by others."""
    first, last = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    piece = dice.choice(
        [b"", data[first:last] * 2, dice.randbytes(dice.randrange(1, 9)), b"[" * 2000, b"\xff", b"\\u0000"]
    )
    return data[:first] + piece + data[last:]


def _change(place: Any, dice: random.Random) -> None:
    while place:
        key = dice.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
            place = place[key]
            continue
        how = dice.random()
        if how < 0.15:
            del place[key]
        elif how < 0.25 and isinstance(place, dict):
            place[dice.choice(["id", "task", "project", "annotation", "annotations", "result", "x"])] = place.pop(key)
        elif how < 0.3 and isinstance(place, list):
            place.extend(place[:50])
        else:
            place[key] = dice.choice(WAYS)(dice)
        return


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value
