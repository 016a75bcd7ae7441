"""Finds boxes: a linear classifier looks at every place in a few sizes; what overlaps gives way; the rest is moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from model.box_pixels import AROUND, CELL, NUMBERS, SIDE, grid, looks, overlaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.box_pixels import Boxes, Floats, Picture

WIDTH = AROUND * AROUND * NUMBERS
_MOST_FOUND = 100
_SAME_LABEL, _ANY_LABEL = 0.35, 0.6


@dataclass(frozen=True, slots=True)
class Finder:
    """``sizes`` (n x 2, pixels of the pictures that `box_pixels.read` gives) are what boxes are looked for in.

    ``weights`` (numbers x labels) and ``bias`` give log odds, ``moves`` (numbers + 1 x 4) where the thing really lies:
    shifts in widths and heights, and logarithms of how much wider and higher it is. ``slope`` and ``shift`` correct the
    odds, ``threshold`` is the probability from which on a box is said.
    """

    labels: tuple[str, ...]
    sizes: Boxes
    weights: Floats
    bias: Floats
    moves: Floats
    slope: float = 1.0
    shift: float = 0.0
    threshold: float = 0.5

    def find(self, picture: Picture, kept: frozenset[str] | None = None) -> tuple[Boxes, NDArray[np.int64], Boxes]:
        """Boxes, the number of the label of each, and its probability; from the most likely on, the unlikely too."""
        boxes, labels, odds = self.everywhere(picture, np.log(0.02 / 0.98), kept)
        chosen = thinned(boxes, labels, odds)
        boxes, labels, odds = boxes[chosen], labels[chosen], odds[chosen]
        if len(boxes):
            seen = np.stack([looks(picture, box) for box in boxes])
            boxes = moved(boxes, np.hstack([seen, np.ones((len(seen), 1), np.float32)]) @ self.moves)
            # Moved to the same thing, one of them is enough.
            again = thinned(boxes, labels, odds)
            boxes, labels, odds = boxes[again], labels[again], odds[again]
        return boxes, labels, (np.tanh((self.slope * odds + self.shift) / 2) + 1) / 2

    def everywhere(
        self, picture: Picture, at_least: float, kept: frozenset[str] | None = None
    ) -> tuple[Boxes, NDArray[np.int64], Boxes]:
        """Every place whose log odds are ``at_least`` so much for its best label, neighbours and all."""
        allowed = np.array([kept is None or label in kept for label in self.labels])
        found: list[tuple[Boxes, NDArray[np.int64], Boxes]] = []
        for size in self.sizes:
            cells = grid(picture, size)
            if min(cells.shape[:2]) < AROUND:
                continue
            step = size * CELL / (SIDE * CELL)
            windows: Any = sliding_window_view(cells, (AROUND, AROUND), axis=(0, 1))  # type: ignore[call-overload]
            for row, line in enumerate(windows):
                seen = line.transpose(0, 2, 3, 1).reshape(len(line), -1)
                odds = np.where(allowed, (seen @ self.weights + self.bias).astype(np.float64), -np.inf)
                best = odds.max(axis=1)
                columns = np.flatnonzero(best >= at_least)
                corners = np.stack([columns * step[0], np.full(len(columns), row * step[1])], axis=1)
                boxes = np.hstack([corners, np.broadcast_to(size, corners.shape)])
                found.append((boxes, odds[columns].argmax(axis=1), best[columns]))
        if not found:
            return np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)
        boxes, labels, odds = (np.concatenate(part) for part in zip(*found, strict=True))
        return boxes, labels, odds


def thinned(boxes: Boxes, labels: NDArray[np.int64], odds: Boxes) -> NDArray[np.int64]:
    """Places of the boxes that stay: the most likely ones, from which the others are far enough away."""
    order = np.argsort(-odds, kind="stable")[: 50 * _MOST_FOUND]
    kept: list[int] = []
    while len(order) and len(kept) < _MOST_FOUND:
        first = order[0]
        kept.append(int(first))
        shared = overlaps(boxes[first][None], boxes[order])[0]
        near = np.where(labels[order] == labels[first], shared > _SAME_LABEL, shared > _ANY_LABEL)
        near[0] = True
        order = order[~near]
    return np.array(kept, np.int64)


def moved(boxes: Boxes, moves: NDArray[np.floating]) -> Boxes:
    """Boxes after ``moves``, which are kept small: what looks like nothing known may say anything."""
    shifts, grown = np.clip(moves[:, :2], -0.3, 0.3), np.exp(np.clip(moves[:, 2:], -0.4, 0.4))
    middles = boxes[:, :2] + boxes[:, 2:] / 2 + shifts * boxes[:, 2:]
    sides = boxes[:, 2:] * grown
    return np.hstack([middles - sides / 2, sides])


def moves_between(boxes: Boxes, truths: Boxes) -> Boxes:
    """What `moved` needs to make ``truths`` of ``boxes``."""
    middles = truths[:, :2] + truths[:, 2:] / 2 - boxes[:, :2] - boxes[:, 2:] / 2
    return np.hstack([middles / boxes[:, 2:], np.log(truths[:, 2:] / boxes[:, 2:])])
