"""The plot of versions: everything drawn lies inside the drawing, and stands where its number says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ml_backend.overview.views import Score, Version
from ml_backend.web.page.plot import HEIGHT, MOST, plot


def version(number: int, value: float | None, tasks: int = 10, **changes: Any) -> Version:
    score = None if value is None else Score(name="accuracy", value=value, compared_on=40, informative=False)
    fields: dict[str, Any] = {
        "number": number,
        "name": f"v{number}-20261124-1405",
        "status": "standby",
        "created_at": 0.0,
        "score": score,
        "scores": {},
        "scores_before": {},
        "information": {},
        "compared_on": 40,
        "promoted": True,
        "verdict": "",
        "tasks": tasks,
        "annotations": tasks,
        "held_out": 0,
        "trigger": "",
        "reason": "",
        "run": "",
        "parent": None,
        "seconds": 1.0,
        "durations": {},
        "bytes": 1,
    }
    return Version(**{**fields, **changes})


SCORES = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=MOST + 5)


@given(scores=SCORES, tasks=st.integers(0, 100_000))
def test_everything_lies_inside_the_drawing(scores: list[float | None], tasks: int) -> None:
    drawn = plot([version(len(scores) - index, score, tasks) for index, score in enumerate(scores)])
    assert drawn is not None
    assert len(drawn.points) == min(len(scores), MOST)
    for point in drawn.points:
        assert 0 <= point.bar_x < point.bar_x + point.bar_width <= 100
        assert 0 <= point.bar_y <= point.bar_y + point.bar_height <= HEIGHT
        if point.y is not None:
            assert drawn.ticks[-1].y - 0.2 <= point.y <= drawn.ticks[0].y + 0.2
    assert len(drawn.ticks) <= 6


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=MOST))
def test_older_versions_stand_to_the_left_and_better_ones_higher(scores: list[float]) -> None:
    drawn = plot([version(number, score) for number, score in reversed(list(enumerate(scores, start=1)))])
    assert drawn is not None
    assert [one.label for one in drawn.points] == [f"v{number}" for number in range(1, len(scores) + 1)]
    for one, other in pairwise(drawn.points):
        assert one.x < other.x
    for a, low in zip(scores, drawn.points, strict=True):
        for b, high in zip(scores, drawn.points, strict=True):
            assert low.y is not None
            assert high.y is not None
            assert a > b or low.y >= high.y


def test_a_version_without_a_score_has_its_bar_and_no_dot() -> None:
    drawn = plot([version(2, None, 30), version(1, 0.5, 15)])
    assert drawn is not None
    assert [one.y is None for one in drawn.points] == [False, True]
    assert drawn.points[1].bar_height == 2 * drawn.points[0].bar_height


def test_no_version_is_no_plot() -> None:
    assert plot([]) is None
