"""Learns to find boxes: from the marked ones and from places where nothing is, the misleading ones above all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from model.box_finding import WIDTH, Finder, moves_between
from model.box_pixels import looks, overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from model.box_pixels import Boxes, Floats, Picture

_SIZES_AT_MOST = 12
_ALIKE = 0.75
_ROUNDS = 2
_AT_RANDOM, _MISLEADING = 40, 60
_MOST_BACKGROUND, _MOST_FOREGROUND = 12_000, 20_000
_NEAR, _RIGHT = 0.3, 0.5
_STRENGTH = 0.03
_TESTED_FROM = 8


@dataclass(frozen=True, slots=True)
class Marked:
    """A picture, its boxes (pixels of it), and the numbers of their labels."""

    picture: Picture
    boxes: Boxes
    labels: NDArray[np.int64]


def fit(
    marked: Sequence[Marked], labels: tuple[str, ...], seed: int, progress: Callable[[float], None]
) -> tuple[Finder, dict[str, float]]:
    """Learn them; also how well that goes on pictures that were left out, a quarter of them, at most 60."""
    order = np.random.default_rng(seed).permutation(len(marked)).tolist()
    out = order[: min(len(order) // 4, 60)]
    left = frozenset(out)
    train = [marked[place] for place in order[len(out) :]]
    used = {int(label) for one in train for label in one.labels}
    slope, shift, threshold = 1.0, 0.0, 0.5
    quality: dict[str, float] = {}
    if len(marked) >= _TESTED_FROM and used:
        tried = _learn(train, labels, seed, lambda done: progress(done / 2))
        slope, shift, threshold, quality = _tested(tried, [marked[place] for place in sorted(left)])
    finder = _learn(marked, labels, seed, lambda done: progress(0.5 + done / 2))
    return replace(finder, slope=slope, shift=shift, threshold=threshold), quality


def sizes_of(boxes: Boxes) -> Boxes:
    """A few sizes such that about every box is like one of them: each time the one that is like most of the rest."""
    centred = np.hstack([-boxes[:, 2:] / 2, boxes[:, 2:]])
    alike = overlaps(centred, centred)
    left = np.ones(len(boxes), bool)
    chosen: list[int] = []
    while left.any() and len(chosen) < _SIZES_AT_MOST:
        chosen.append(int((alike[:, left] > _ALIKE).sum(axis=1).argmax()))
        left &= alike[chosen[-1]] <= _ALIKE
    return boxes[chosen, 2:]


def _learn(marked: Sequence[Marked], labels: tuple[str, ...], seed: int, progress: Callable[[float], None]) -> Finder:
    random = np.random.default_rng(seed)
    sizes = sizes_of(np.concatenate([one.boxes for one in marked]))
    seen, given, moves = _foreground(marked, random)
    each = max(1, min(_AT_RANDOM, _MOST_BACKGROUND // (2 * len(marked))))
    background = [looks(one.picture, box) for one in marked for box in _somewhere(one, sizes, each, random)]
    # Where boxes fill their pictures there is no place without one.
    nowhere = np.zeros((0, WIDTH), np.float32)
    nothing = np.zeros((WIDTH + 1, 4), np.float32)
    finder = Finder(
        labels, sizes, np.zeros((WIDTH, len(labels)), np.float32), np.zeros(len(labels), np.float32), nothing
    )
    for turn in range(_ROUNDS + 1):
        weights, bias = _separate(seen, given, np.vstack([nowhere, *background]), len(labels), seed)
        finder = replace(finder, weights=weights, bias=bias)
        for number, one in enumerate(marked):
            progress((turn + number / len(marked)) / (_ROUNDS + 1))
            if turn < _ROUNDS and len(background) < _MOST_BACKGROUND:
                background += [looks(one.picture, box) for box in _misleading(finder, one)]
    ones = np.hstack([seen, np.ones((len(seen), 1), np.float32)])
    # Ridge regression, for all four at once; what is many and alike must not sway it.
    ridge = ones.T @ ones + 10.0 * np.eye(WIDTH + 1, dtype=np.float32)
    return replace(finder, moves=np.linalg.solve(ridge, ones.T @ moves.astype(np.float32)).astype(np.float32))


def _foreground(marked: Sequence[Marked], random: np.random.Generator) -> tuple[Floats, NDArray[np.int64], Boxes]:
    """What each marked box looks like, as it is and not quite met, its label, and where it really is."""
    seen: list[Floats] = []
    given: list[int] = []
    moves: list[Boxes] = []
    each = max(1, min(7, _MOST_FOREGROUND // sum(len(one.boxes) for one in marked) - 1))
    for one in marked:
        for box, label in zip(one.boxes, one.labels, strict=True):
            tries = np.vstack([np.zeros((1, 4)), random.uniform(-0.12, 0.12, (each, 4))])
            jittered = np.hstack([box[:2] + tries[:, :2] * box[2:], box[2:] * np.exp(tries[:, 2:])])
            seen += [looks(one.picture, near) for near in jittered]
            given += [int(label)] * len(jittered)
            moves.append(moves_between(jittered, np.broadcast_to(box, jittered.shape)))
    return np.stack(seen), np.array(given), np.concatenate(moves)


def _somewhere(one: Marked, sizes: Boxes, count: int, random: np.random.Generator) -> Boxes:
    """Places at random where nothing is marked, at most so many."""
    height, width = one.picture.shape[:2]
    some = sizes[random.integers(len(sizes), size=count)]
    corners = random.uniform(size=(count, 2)) * np.maximum([width, height] - some, 1)
    return _apart(one, np.hstack([corners, some]))


def _misleading(finder: Finder, one: Marked) -> Boxes:
    """Places where nothing is marked that look the most as if there were something."""
    boxes, _, odds = finder.everywhere(one.picture, -1.0)
    order = np.argsort(-odds, kind="stable")[:2_000]
    return _apart(one, boxes[order])[:_MISLEADING]


def _apart(one: Marked, boxes: Boxes) -> Boxes:
    return boxes[(overlaps(boxes, one.boxes) < _NEAR).all(axis=1)] if len(one.boxes) else boxes


def _separate(
    seen: Floats, given: NDArray[np.int64], background: Floats, labels: int, seed: int
) -> tuple[Floats, Floats]:
    """One classifier for each label, against the other labels and the background."""
    # Late: serving needs none of it.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    rows = np.vstack([seen, background])
    weights, bias = np.zeros((WIDTH, labels), np.float32), np.full(labels, -np.inf, np.float32)
    for label in sorted({int(one) for one in given}):
        wanted = np.concatenate([given == label, np.zeros(len(background), bool)])
        if wanted.all():
            bias[label] = np.log(len(rows) + 1)  # nothing tells what it is not like: its odds are n + 1 to 1
            continue
        machine = LogisticRegression(C=_STRENGTH, max_iter=100, tol=1e-3, random_state=seed).fit(rows, wanted)
        weights[:, label], bias[label] = machine.coef_[0], machine.intercept_[0]
    return weights, bias


def _tested(finder: Finder, marked: Sequence[Marked]) -> tuple[float, float, float, dict[str, float]]:
    """From pictures that were left out: the slope and shift of the odds, the best threshold, and the F1 with it."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - late, see _separate

    odds: list[float] = []
    right: list[bool] = []
    given = sum(len(one.boxes) for one in marked)
    for one in marked:
        boxes, labels, sure = finder.find(one.picture)
        shared = overlaps(boxes, one.boxes) * (labels[:, None] == one.labels[None, :])
        free = np.ones(len(one.boxes), bool)
        for at in range(len(boxes)):
            hits = shared[at] * free
            hit = bool(len(hits)) and bool(hits.max() >= _RIGHT)
            if hit:
                free[int(hits.argmax())] = False
            odds.append(float(np.log(sure[at] / max(1 - sure[at], 1e-12))))
            right.append(hit)
    tested = {"cv_examples": float(len(marked))}
    if not given or not any(right) or all(right):
        return 1.0, 0.0, 0.5, tested
    values = np.clip(np.array(odds), -20, 20)
    machine = LogisticRegression(C=1.0).fit(values[:, None], right)
    slope, shift = max(float(machine.coef_[0, 0]), 0.05), float(machine.intercept_[0])
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(np.array(right)[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + given)
    best = int(f1.argmax())
    # Half way to the next one, on the scale of the corrected odds.
    lowest = values[order][best : best + 2].mean()
    threshold = float((np.tanh((slope * lowest + shift) / 2) + 1) / 2)
    return slope, shift, threshold, {"cv_box_f1": float(f1[best]), **tested}
