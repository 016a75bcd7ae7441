"""The work of a growing project stays proportional to its final size: by the policy alone, and in the product."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.growth import AT_ONCE, EVERY_TEN, GOAL, Pace, simulate, through_the_stack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seconds", [0.05, 0.5, 5.0, 60.0])
def test_ten_thousand_annotations_cost_less_than_ten_times_their_number(seconds: float) -> None:
    growth = simulate(10_000, pace=Pace(annotation=seconds))
    assert growth.work <= GOAL
    assert growth.sizes[-1] >= 0.8 * growth.final


def test_training_every_ten_would_cost_five_hundred_times_their_number() -> None:
    assert simulate(10_000, EVERY_TEN).work == pytest.approx(500, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_the_whole_product_trains_as_often_as_the_simulation(tmp_path: Path) -> None:
    growth = through_the_stack(tmp_path / "stack", 60)
    assert growth.sizes == simulate(60, AT_ONCE, Pace(annotation=60.0, run=1.0)).sizes
