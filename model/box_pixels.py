"""Boxes and pixels: Label Studio's percentages, the part of a picture in a box, and what it looks like as numbers.

A box is x, y, width and height in pixels. What it looks like is a grid of cells, each with the directions and strength
of its edges (histograms of oriented gradients) and its mean colour, whatever size the box has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Boxes = NDArray[np.float64]

CELL = 4
SIDE = 8
"""A box is ``SIDE`` cells wide and high, with one more around it."""
AROUND = SIDE + 2
DIRECTIONS = 9
NUMBERS = DIRECTIONS + 4
"""How many numbers a cell has."""
_LARGEST_SIDE = 400
_MOST_PIXELS = 100_000_000


def read(path: Path) -> tuple[Picture, int, int]:
    """The picture, upright as browsers show it and at most 400 pixels a side, and its own width and height.

    Raises `ValueError` when it is none that can be read.
    """
    import cv2  # noqa: PLC0415 - late, with what reads it
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        # Looked at before it is unpacked: a small file may claim to be as large as a house.
        with Image.open(path) as peeked:
            if peeked.width * peeked.height > _MOST_PIXELS:
                raise ValueError(f"{path.name} has {peeked.width} x {peeked.height} pixels")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} is no picture that can be read: {error}") from None
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path.name} is no picture that can be read")
    height, width = picture.shape[:2]
    smaller = min(1.0, _LARGEST_SIDE / max(width, height))
    size = max(1, round(width * smaller)), max(1, round(height * smaller))
    small: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if smaller < 1 else picture
    return small, width, height


def pixels_of(value: Mapping[str, Any], width: float, height: float) -> tuple[float, float, float, float] | None:
    """The box of a region's value (percentages) in a picture of that size; None when it is none.

    A rotated rectangle (clockwise, around its own corner) is taken by the upright box around it; what lies outside the
    picture is cut off.
    """
    sides = [value.get(name) for name in ("x", "y", "width", "height")]
    turned = value.get("rotation") or 0
    if not all(isinstance(side, int | float) for side in [*sides, turned]):
        return None
    x, y, w, h = np.array(sides, float) / 100 * [width, height, width, height]
    angle = np.deg2rad(float(turned))
    across, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    corners = np.array([x, y]) + np.array([[0, 0], across * w, down * h, across * w + down * h], float)
    low = np.clip(corners.min(axis=0), 0, [width, height])
    high = np.clip(corners.max(axis=0), 0, [width, height])
    box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    return box if np.isfinite(box).all() and box[2] > 0 and box[3] > 0 else None


def percentages(box: Boxes, width: float, height: float) -> dict[str, Any]:
    """The value of an upright region for a box in a picture of that size."""
    low = np.clip(box[:2], 0, [width, height])
    high = np.clip(box[:2] + box[2:], 0, [width, height])
    (x, y), (w, h) = 100 * low / [width, height], 100 * (high - low) / [width, height]
    return {"x": float(x), "y": float(y), "width": float(w), "height": float(h), "rotation": 0}


def overlaps(boxes: Boxes, others: Boxes) -> Boxes:
    """Intersection over union of each box (rows) with each other one (columns)."""
    one, other = boxes[:, None], others[None, :]
    sides = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    sides = np.clip(sides - np.maximum(one[..., :2], other[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    union = one[..., 2:].prod(axis=-1) + other[..., 2:].prod(axis=-1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def looks(picture: Picture, box: Boxes) -> Floats:
    """The numbers of the cells in and around a box, in one row."""
    import cv2  # noqa: PLC0415 - late, see read

    # Two cells more on each side: one belongs to it, in the other edges are found that begin outside.
    scale = (SIDE * CELL) / np.maximum(box[2:], 1e-6)
    low, high = box[:2] - 2 * CELL / scale, box[:2] + box[2:] + 2 * CELL / scale
    # Only that part is looked at, with a margin for what its edge pixels are made of.
    whole = np.array(picture.shape[1::-1])
    first = np.clip(np.floor(low - 4 / scale) - 2, 0, whole - 1).astype(int)
    last = np.clip(np.ceil(high + 4 / scale) + 2, first + 1, whole).astype(int)
    low = low - first
    shrunk, back = _shrunk(picture[first[1] : last[1], first[0] : last[0]], scale)
    into = np.array([[scale[0] * back[0], 0, -low[0] * scale[0]], [0, scale[1] * back[1], -low[1] * scale[1]]])
    side = (SIDE + 4) * CELL
    part: Any = cv2.warpAffine(shrunk, into, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cells(part)[1:-1, 1:-1].ravel()


def grid(picture: Picture, size: Boxes) -> Floats:
    """The cells of a whole picture, two around it included, drawn so that boxes of ``size`` are `SIDE` cells."""
    import cv2  # noqa: PLC0415 - late, see read

    height, width = picture.shape[:2]
    scale = (SIDE * CELL) / size
    shrunk, back = _shrunk(picture, scale)
    into = np.array([[scale[0] * back[0], 0, 2 * CELL], [0, scale[1] * back[1], 2 * CELL]])
    drawn = tuple(int(np.ceil(side * by / CELL) + 4) * CELL for side, by in zip((width, height), scale, strict=True))
    whole: Any = cv2.warpAffine(shrunk, into, drawn, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cells(whole)[1:-1, 1:-1]


def _shrunk(picture: Picture, scale: Boxes) -> tuple[Picture, Boxes]:
    """The picture shrunk to about that scale, every pixel counted, and what is left to scale it by (relative)."""
    import cv2  # noqa: PLC0415 - late, see read

    height, width = picture.shape[:2]
    size = [max(1, round(side * min(1.0, by))) for side, by in zip((width, height), scale, strict=True)]
    if size == [width, height]:
        return picture, np.ones(2)
    small: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small, np.array([width, height]) / size


def cells(picture: Picture) -> Floats:
    """(rows x columns x `NUMBERS`) of a picture whose sides are whole cells."""
    import cv2  # noqa: PLC0415 - late, see read

    # The colour in which an edge is strongest counts.
    across, down = (cv2.Sobel(picture, cv2.CV_32F, one, 1 - one, ksize=1) for one in (1, 0))
    strength = across**2 + down**2
    best = strength.argmax(axis=2)[..., None]
    across, down = (np.take_along_axis(one, best, axis=2)[..., 0] for one in (across, down))
    strength = np.sqrt(np.take_along_axis(strength, best, axis=2)[..., 0])
    turned = (np.arctan2(down, across) / np.pi % 1) * DIRECTIONS
    lower = np.floor(turned)
    upper = turned - lower
    values = np.zeros((*strength.shape, NUMBERS), np.float32)
    for direction, share in ((lower, 1 - upper), (lower + 1, upper)):
        place = (direction.astype(np.int64) % DIRECTIONS)[..., None]
        np.put_along_axis(values, place, np.take_along_axis(values, place, 2) + (strength * share)[..., None], 2)
    values[..., DIRECTIONS:-1] = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)
    values[..., -1] = strength
    rows, columns = strength.shape[0] // CELL, strength.shape[1] // CELL
    # First over the rows of a cell, then over its columns: four times as fast as both at once.
    means: Floats = values.reshape(rows, CELL, -1).sum(axis=1).reshape(rows, columns, CELL, NUMBERS).sum(axis=2)
    means /= CELL * CELL
    histogram = means[..., :DIRECTIONS]
    energy = cv2.blur(np.square(histogram).sum(axis=2), (3, 3), borderType=cv2.BORDER_REPLICATE)
    means[..., :DIRECTIONS] = np.minimum(histogram / np.sqrt(energy + 4.0)[..., None], 0.6)
    means[..., DIRECTIONS:-1] = means[..., DIRECTIONS:-1] / 255 - 0.5
    means[..., -1] = np.log1p(means[..., -1]) / 5
    return means
