"""The plot of a project's versions: where everything stands, so that the template only writes it down.

Widths are percent of the drawing and heights are pixels,
so that one drawing fits every screen, with letters of one size.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml_backend.overview.views import Score, Version

MOST = 30
HEIGHT = 250
_TOP, _BOTTOM = 18, 158
_BARS_TOP, _BARS_BOTTOM = 180, 222
_LEFT, _RIGHT = 9.0, 97.0
_MOST_LABELS = 10

Kind = Literal["serving", "standby", "aside"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across at ``y``, and what it says."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Point:
    """One version. ``y`` is None without a score; the bar is the size of its training set."""

    x: float
    y: float | None
    name: str
    label: str
    kind: Kind
    informative: bool
    title: str
    bar_y: float
    bar_height: float
    bar_x: float
    bar_width: float
    label_shown: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A line between two versions with a score."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Plot:
    """The drawing. ``metric`` is the score that is drawn, ``largest`` the largest training set, in tasks."""

    metric: str
    ticks: list[Tick]
    points: list[Point]
    segments: list[Segment]
    largest: int
    summary: str
    height: int = HEIGHT
    bars_bottom: int = _BARS_BOTTOM
    bars_top: int = _BARS_TOP
    left: float = _LEFT
    right: float = _RIGHT


def plot(versions: Sequence[Version]) -> Plot | None:
    """Draw up to `MOST` versions, given newest first; None when there is none."""
    shown = list(reversed(versions[:MOST]))
    if not shown:
        return None
    names = Counter(one.score.name for one in shown if one.score is not None)
    metric = names.most_common(1)[0][0] if names else ""
    scores = [one.score if one.score is not None and one.score.name == metric else None for one in shown]
    low, high, step = _range([one.value for one in scores if one is not None])

    def y_of(value: float) -> float:
        return round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 1)

    largest = max(1, *(one.tasks for one in shown))
    slot = (_RIGHT - _LEFT) / len(shown)
    every = math.ceil(len(shown) / _MOST_LABELS)
    points = [
        _point(
            version,
            score,
            y=None if score is None else y_of(score.value),
            x=_LEFT + slot * (number + 0.5),
            slot=slot,
            largest=largest,
            label_shown=(len(shown) - 1 - number) % every == 0,
        )
        for number, (version, score) in enumerate(zip(shown, scores, strict=True))
    ]
    drawn = [(one.x, one.y) for one in points if one.y is not None]
    segments = [Segment(x1, y1, x2, y2) for (x1, y1), (x2, y2) in pairwise(drawn)]
    count = round((high - low) / step)
    ticks = [Tick(y_of(low + step * number), f"{low + step * number:.2f}") for number in range(count + 1)]
    return Plot(metric, ticks if drawn else [], points, segments, largest, _summary(shown, metric, scores))


def _point(
    version: Version,
    score: Score | None,
    *,
    y: float | None,
    x: float,
    slot: float,
    largest: int,
    label_shown: bool,
) -> Point:
    height = round(version.tasks / largest * (_BARS_BOTTOM - _BARS_TOP), 1)
    width = min(slot * 0.6, 4.0)
    kind: Kind = "aside" if version.status == "kept aside" else version.status
    said = "no score" if score is None else f"{score.name} {score.value:.3f}"
    if score is not None and score.informative:
        said += " (by the model itself, for information)"
    return Point(
        x=round(x, 2),
        y=y,
        name=version.name,
        label=f"v{version.number}",
        kind=kind,
        informative=score is not None and score.informative,
        title=f"v{version.number}: {said}, {version.tasks} tasks, {version.status}",
        bar_y=round(_BARS_BOTTOM - height, 1),
        bar_height=height,
        bar_x=round(x - width / 2, 2),
        bar_width=round(width, 2),
        label_shown=label_shown,
    )


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    """The lowest and highest tick, and the step between them: five lines at most, around all values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    for step in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0, 100.0):
        bottom = math.floor(low / step + 1e-9) * step
        top = math.ceil(high / step - 1e-9) * step
        if top - bottom < step / 2:
            bottom, top = (bottom - step, top) if top >= 1 else (bottom, top + step)
        if round((top - bottom) / step) <= 4:
            return round(bottom, 4), round(top, 4), step
    return low, max(high, low + 1.0), max(high - low, 1.0)


def _summary(shown: Sequence[Version], metric: str, scores: Sequence[Score | None]) -> str:
    known = [one.value for one in scores if one is not None]
    if not known:
        return f"{len(shown)} versions, none with a score."
    return (
        f"{metric} of {len(shown)} versions, from {known[0]:.3f} to {known[-1]:.3f}; the table below has every number."
    )
