"""Promotion over whole lives of projects: better versions get through, spoiled ones are caught once there is evidence.

What the candidate was not trained on is at most a fifth of the tasks, and 30 of them are needed: below 150 labels no
comparison is possible, whatever the incumbent has seen (and the labels that are new to it are fewer still, a sixth at
the default growth). It begins one training later, since the version that serves then was trained on everything. So
"once there are 100 examples" is tested as 100 comparable ones, and for projects of up to 200 labels from the first
comparison on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ml_backend.scores import COMPARABLE, Scores, compare, decide_promotion, held_out

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES, FEATURES, UNSEEN = 4, 10, 3000


@dataclass(frozen=True)
class Task:
    task: int
    created_at_us: int
    ground_truth: bool = False


@dataclass(frozen=True)
class Turn:
    """One retraining: how many labels and comparable examples there were, and what was decided."""

    labels: int
    comparable: int
    truly_better: bool
    promoted: bool
    spoiled_promoted: bool


class Model:
    """Ridge regression on the classes: learns as models do, in a millisecond."""

    def __init__(self, features: Any, labels: Any, ids: list[int]) -> None:
        self.trained_on = frozenset(ids)
        x = with_constant(features)
        self._weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.eye(CLASSES)[labels])

    def right(self, features: Any, labels: Any) -> Any:
        return ((with_constant(features) @ self._weights).argmax(axis=1) == labels).astype(float)


def with_constant(features: Any) -> Any:
    return np.hstack([features, np.ones((len(features), 1))])


def growth(seed: int, labels: int) -> Iterator[Turn]:
    """A project from 10 labels up, retrained at every fifth more; at each turn also a version from shuffled labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CLASSES, FEATURES)) * 1.2
    y = random.integers(0, CLASSES, labels + UNSEEN)
    x = centres[y] + random.normal(size=(len(y), FEATURES)) * 1.5
    tasks = [Task(number, seed * 10**9 + number) for number in range(labels)]
    size, serving = 10, None
    while True:
        aside = held_out(tasks[:size])
        ids = [number for number in range(size) if number not in aside]
        candidate = Model(x[ids], y[ids], ids)
        if serving is None:
            serving = candidate
        else:
            spoiled = Model(x[ids], random.permutation(y[ids]), ids)
            new_to_both = sorted(aside - serving.trained_on)
            better = candidate.right(x[labels:], y[labels:]).mean() > serving.right(x[labels:], y[labels:]).mean()
            verdicts = [promoted(one, serving, x[new_to_both], y[new_to_both]) for one in (candidate, spoiled)]
            yield Turn(size, len(new_to_both), bool(better), *verdicts)
            if verdicts[0]:
                serving = candidate
        if size >= labels:
            return
        size = min(labels, max(size + 10, int(size * 1.2)))


def promoted(candidate: Model, serving: Model, x: Any, y: Any) -> bool:
    if not len(x):
        return decide_promotion("not_worse", None).promote
    new, old = (Scores({}, tuple(model.right(x, y))) for model in (candidate, serving))
    return decide_promotion("not_worse", compare(new, old)).promote


@pytest.fixture(scope="module")
def small() -> list[Turn]:
    return [turn for seed in range(50) for turn in growth(seed, labels=200)]


def test_less_than_a_twentieth_of_the_truly_better_versions_is_kept_aside(small: list[Turn]) -> None:
    better = [turn for turn in small if turn.truly_better]
    assert len(better) > 300
    assert sum(not turn.promoted for turn in better) < 0.05 * len(better)


def test_more_than_half_of_the_spoiled_versions_are_kept_aside_once_thirty_examples_are_comparable(
    small: list[Turn],
) -> None:
    judged = [turn for turn in small if turn.comparable >= COMPARABLE]
    assert len(judged) >= 50
    assert sum(not turn.spoiled_promoted for turn in judged) > 0.5 * len(judged)


def test_no_comparison_is_possible_below_150_labels_and_every_project_has_one_by_200(small: list[Turn]) -> None:
    assert all(5 * turn.comparable <= turn.labels for turn in small)
    judged = [turn for turn in small if turn.comparable >= COMPARABLE]
    assert min(turn.labels for turn in judged) >= 150
    assert sum(turn.labels == 200 for turn in judged) == 50


def test_below_thirty_comparable_examples_everything_is_promoted(small: list[Turn]) -> None:
    unjudged = [turn for turn in small if turn.comparable < COMPARABLE]
    assert all(turn.promoted and turn.spoiled_promoted for turn in unjudged)


def test_with_a_hundred_comparable_examples_hardly_a_spoiled_version_passes_and_better_ones_still_do() -> None:
    turns = [turn for seed in range(12) for turn in growth(seed, labels=700) if turn.comparable >= 100]
    better = [turn for turn in turns if turn.truly_better]
    assert len(turns) >= 12
    assert sum(not turn.spoiled_promoted for turn in turns) > 0.95 * len(turns)
    assert sum(not turn.promoted for turn in better) <= max(1, 0.05 * len(better))
