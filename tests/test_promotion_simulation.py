"""Promotion over whole lives of projects: better versions get through, spoiled ones are caught once there is evidence.

At most a fifth of the tasks is ever held out, and 30 must be comparable: below 150 labels nothing is held out, and what
decides there is what the models of both versions answered about tasks that they were trained without, which costs
nothing where they validate themselves. Models that do not are promoted until enough is held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ml_backend import left_out
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.scores import COMPARABLE, Scores, compare, decide_promotion, held_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.left_out import Answered

CLASSES, FEATURES, UNSEEN, FOLDS = 4, 10, 3000, 5
CONTROLS = parse_label_config(
    '<View><Text name="text" value="$text"/><Choices name="kind" toName="text"><Choice value="0"/>'
    '<Choice value="1"/><Choice value="2"/><Choice value="3"/></Choices></View>'
)


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

    def __init__(self, features: Any, labels: Any) -> None:
        x = with_constant(features)
        self._weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.eye(CLASSES)[labels])

    def answers(self, features: Any) -> Any:
        return (with_constant(features) @ self._weights).argmax(axis=1)

    def right(self, features: Any, labels: Any) -> Any:
        return (self.answers(features) == labels).astype(float)


def with_constant(features: Any) -> Any:
    return np.hstack([features, np.ones((len(features), 1))])


def region(kind: int) -> dict[str, Any]:
    return {"from_name": "kind", "to_name": "text", "type": "choices", "value": {"choices": [str(kind)]}}


class Project:
    """Tasks of four overlapping kinds, as people label them."""

    def __init__(self, seed: int, labels: int) -> None:
        random = self.random = np.random.default_rng(seed)
        centres = random.normal(size=(CLASSES, FEATURES)) * 1.2
        self.y = random.integers(0, CLASSES, labels + UNSEEN)
        self.x = centres[self.y] + random.normal(size=(len(self.y), FEATURES)) * 1.5
        self.tasks = [Task(number, seed * 10**9 + number) for number in range(labels)]
        self.examples = [
            Example({"id": number}, (LabelledAnnotation(number, [region(int(kind))], 1, 1),))
            for number, kind in enumerate(self.y[:labels])
        ]


@dataclass(frozen=True)
class Version:
    model: Model
    trained_on: list[int]
    answered: dict[int, Answered]


def trained(project: Project, ids: list[int], labels: Any, *, validates: bool) -> Version:
    """A version that learns ``labels`` of the tasks ``ids``; by five folds it answers about each without having it."""
    x, reported = project.x[ids], {}
    order = project.random.permutation(len(ids))
    for fold in range(FOLDS if validates else 0):
        out, others = order[fold::FOLDS], np.delete(order, np.s_[fold::FOLDS])
        for place, kind in zip(out, Model(x[others], labels[others]).answers(x[out]), strict=True):
            reported[ids[place]] = {"kind": [region(int(kind))]}
    answered = left_out.collected([project.examples[number] for number in ids], reported)
    return Version(Model(x, labels), ids, answered)


def growth(seed: int, labels: int, *, validates: bool = True) -> Iterator[Turn]:
    """A project from 10 labels up, retrained at every fifth more; at each turn also a version from shuffled labels."""
    project = Project(seed, labels)
    x, y = project.x, project.y
    size, serving = 10, None
    while True:
        aside = held_out(project.tasks[:size])
        ids = [number for number in range(size) if number not in aside]
        candidate = trained(project, ids, y[ids], validates=validates)
        if serving is None:
            serving = candidate
        else:
            spoiled = trained(project, ids, project.random.permutation(y[ids]), validates=validates)
            new_to_both = sorted(aside.difference(serving.trained_on))
            gain = candidate.model.right(x[labels:], y[labels:]) - serving.model.right(x[labels:], y[labels:])
            verdicts = [judged(project, one, serving, new_to_both) for one in (candidate, spoiled)]
            (comparable, promoted), (_, spoiled_promoted) = verdicts
            yield Turn(size, comparable, bool(gain.mean() > 0), promoted, spoiled_promoted)
            if promoted:
                serving = candidate
        if size >= labels:
            return
        size = min(labels, max(size + 10, int(size * 1.2)))


def judged(project: Project, candidate: Version, serving: Version, new_to_both: list[int]) -> tuple[int, bool]:
    """(how many examples were comparable, whether it was promoted), as a run decides it."""
    x, y = project.x[new_to_both], project.y[new_to_both]
    new, old = (Scores({}, tuple(one.model.right(x, y)) if new_to_both else ()) for one in (candidate, serving))
    comparison = compare(new, old)
    if comparison.n < COMPARABLE:
        found = left_out.compare(CONTROLS, project.examples, candidate.answered, serving.answered)
        comparison = found if found is not None and found.n >= COMPARABLE else comparison
    return comparison.n, decide_promotion("not_worse", comparison).promote


@pytest.fixture(scope="module")
def fifty() -> list[Turn]:
    return [turn for seed in range(50) for turn in growth(seed, labels=200)]


def test_over_fifty_growths_less_than_a_twentieth_of_the_truly_better_versions_is_kept_aside(fifty: list[Turn]) -> None:
    better = [turn for turn in fifty if turn.truly_better]
    assert len(better) > 300
    assert sum(not turn.promoted for turn in better) < 0.05 * len(better)


def test_over_fifty_growths_more_than_half_of_the_spoiled_versions_are_kept_aside_from_a_hundred_labels_on(
    fifty: list[Turn],
) -> None:
    judged = [turn for turn in fifty if turn.labels >= 100]
    assert len(judged) >= 150
    assert sum(not turn.spoiled_promoted for turn in judged) > 0.5 * len(judged)


def test_a_twentieth_holds_of_those_alone_that_were_compared(fifty: list[Turn]) -> None:
    better = [turn for turn in fifty if turn.truly_better and turn.comparable >= COMPARABLE]
    assert len(better) > 200
    assert sum(not turn.promoted for turn in better) < 0.05 * len(better)


def test_below_thirty_comparable_examples_everything_is_promoted(fifty: list[Turn]) -> None:
    unjudged = [turn for turn in fifty if turn.comparable < COMPARABLE]
    assert unjudged
    assert all(turn.promoted and turn.spoiled_promoted for turn in unjudged)


def test_of_models_that_do_not_validate_themselves_nothing_is_compared_below_150_labels() -> None:
    turns = [turn for seed in range(10) for turn in growth(seed, labels=200, validates=False)]
    judged = [turn for turn in turns if turn.comparable >= COMPARABLE]
    assert all(5 * turn.comparable <= turn.labels for turn in turns)
    assert min(turn.labels for turn in judged) >= 150
    assert sum(turn.labels == 200 for turn in judged) == 10
    assert sum(not turn.spoiled_promoted for turn in judged) > 0.5 * len(judged)


def test_with_a_hundred_held_out_examples_hardly_a_spoiled_version_passes_and_better_ones_still_do() -> None:
    grown = [turn for seed in range(12) for turn in growth(seed, labels=700, validates=False)]
    turns = [turn for turn in grown if turn.comparable >= 100]
    better = [turn for turn in turns if turn.truly_better]
    assert len(turns) >= 12
    assert sum(not turn.spoiled_promoted for turn in turns) > 0.95 * len(turns)
    assert sum(not turn.promoted for turn in better) <= max(1, 0.05 * len(better))
