"""The training set against a modelled Label Studio: whatever the network does to its events, it comes out right.

Some follow a Label Studio by its events: in order, or lost, doubled, late and swapped; with syncs where something
happened without a word. What they hold is compared with what it holds, every annotation, text and count.

ML_BACKEND_TEST_STATE_RUNS sets how many runs of 50 steps each must pass (500 if not set).
"""

from __future__ import annotations

import itertools
import os
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ml_backend.errors import LeaseLost
from tests.followers import Follower
from tests.modelled import ModelLabelStudio

if TYPE_CHECKING:
    import redis

    from ml_backend.state import Sync
    from tests.followers import Between, Page
    from tests.modelled import Payload

RUNS = int(os.environ.get("ML_BACKEND_TEST_STATE_RUNS", "500"))
STEPS = 50
_BEGINNINGS = 2
"""What a machine does to begin with counts as steps for hypothesis, not for us."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

labels = st.sampled_from(["Positive", "Negative", "", None])
picks = st.integers(min_value=0, max_value=10_000)
"""Which of the things there are: an index, taken modulo their number."""


def some_task(machine: People) -> bool:
    return bool(machine.studio.tasks)


def some_annotation(machine: People) -> bool:
    return bool(machine.studio.annotations)


def two_tasks(machine: People) -> bool:
    return len(machine.studio.tasks) > 1


class People(RuleBasedStateMachine):
    """What people do in Label Studio. Subclasses say how its events arrive."""

    client: redis.Redis
    task_ids_come_back = True
    step_us = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.studio = ModelLabelStudio(task_ids_come_back=self.task_ids_come_back, step_us=self.step_us)
        self.behind = False

    def sent(self, payloads: list[Payload]) -> None:
        """Events are on their way."""
        raise NotImplementedError

    def unsaid(self) -> None:
        """Something changed, and no event says what."""

    def unclear(self) -> None:
        """An event that can be read in two ways, unless the annotation is known already."""

    def task(self, pick: int) -> int:
        ids = sorted(self.studio.tasks)
        return ids[pick % len(ids)]

    def annotation(self, pick: int) -> int:
        ids = sorted(self.studio.annotations)
        return ids[pick % len(ids)]

    @initialize(count=st.integers(1, 2))
    def begin(self, count: int) -> None:
        self.sent(self.studio.import_tasks([[]] * count))

    @rule(pick=picks, label=labels, cancelled=st.booleans(), mark=st.sampled_from([False, False, True]))
    @precondition(some_task)
    def create(self, pick: int, label: str | None, cancelled: bool, mark: bool) -> None:
        self.sent(self.studio.create(self.task(pick), label, cancelled=cancelled, ground_truth=mark))

    @rule(pick=picks)
    @precondition(some_task)
    def submit_a_prediction(self, pick: int) -> None:
        self.sent(self.studio.create(self.task(pick), "Positive", prediction=7))

    @rule(pick=picks, label=labels)
    @precondition(some_annotation)
    def update(self, pick: int, label: str | None) -> None:
        self.change(self.annotation(pick), label=label)

    @rule(pick=picks, cancelled=st.booleans())
    @precondition(some_annotation)
    def skip_or_undo(self, pick: int, cancelled: bool) -> None:
        self.change(self.annotation(pick), cancelled=cancelled)

    @rule(pick=picks, mark=st.sampled_from([True, True, False]))
    @precondition(some_annotation)
    def set_ground_truth(self, pick: int, mark: bool) -> None:
        self.mark(self.annotation(pick), mark)

    @rule(pick=picks, marks=st.lists(st.tuples(picks, st.booleans()), min_size=2, max_size=4))
    @precondition(some_annotation)
    def hesitate_about_the_ground_truth_of_a_task(self, pick: int, marks: list[tuple[int, bool]]) -> None:
        task = self.studio.annotations[self.annotation(pick)].task
        for one, mark in marks:
            ids = [annotation.id for annotation in self.studio.annotations_of(task)]
            self.mark(ids[one % len(ids)], mark)

    def mark(self, annotation: int, mark: bool) -> None:
        if mark and self.is_one_of_several_marked(annotation):
            # Marking one of them again looks like any edit of it.
            self.unsaid()
        self.change(annotation, ground_truth=mark)

    def change(self, annotation: int, **changes: Any) -> None:
        if self.is_one_of_several_marked(annotation):
            self.unclear()
        self.sent(self.studio.update(annotation, **changes))

    def is_one_of_several_marked(self, annotation: int) -> bool:
        """Several ground truths in one task come with imports only."""
        task = self.studio.annotations[annotation].task
        marked = [one.id for one in self.studio.annotations_of(task) if one.ground_truth]
        return annotation in marked and len(marked) > 1

    @rule(pick=picks, count=st.sampled_from([1, 1, 1, 3]))
    @precondition(some_annotation)
    def delete(self, pick: int, count: int) -> None:
        ids = sorted(self.studio.annotations)
        first = pick % len(ids)
        self.sent(self.studio.delete(ids[first : first + count]))

    @rule(again=labels, task=picks)
    @precondition(some_annotation)
    def delete_the_newest_and_create_another_with_its_id(self, again: str | None, task: int) -> None:
        self.sent(self.studio.delete([max(self.studio.annotations)]))
        self.sent(self.studio.create(self.task(task), again))

    @rule(pick=picks, count=st.integers(1, 2))
    @precondition(some_task)
    def delete_tasks(self, pick: int, count: int) -> None:
        ids = sorted(self.studio.tasks)
        first = pick % len(ids)
        self.sent(self.studio.delete_tasks(ids[first : first + count]))

    @rule(count=st.integers(1, 3))
    def import_tasks(self, count: int) -> None:
        self.sent(self.studio.import_tasks([[]] * count))

    @rule(title=st.sampled_from(["A", "B"]), min_annotations=st.integers(0, 3))
    def change_the_project(self, title: str, min_annotations: int) -> None:
        self.sent(self.studio.change_project(title, min_annotations))

    @rule()
    def click_start_training(self) -> None:
        self.sent(self.studio.click())

    @rule(seconds=st.sampled_from([0.5, 60.0, 7200.0]))
    def wait(self, seconds: float) -> None:
        self.studio.pass_time(seconds)

    @rule(pick=picks)
    @precondition(some_task)
    def accept_predictions(self, pick: int) -> None:
        ids = sorted(self.studio.tasks)
        first = pick % len(ids)
        self.sent(self.studio.accept_predictions(ids[first : first + 3], "Negative"))


class Unsaid(People):
    """Also what changes without a word (facts 8, 9, 23)."""

    @rule(own=st.lists(st.lists(st.sampled_from(["Positive", "Negative"]), max_size=2), min_size=1, max_size=3))
    def import_tasks_with_annotations(self, own: list[list[str]]) -> None:
        payloads = self.studio.import_tasks(own)
        self.unsaid()
        self.sent(payloads)

    @rule()
    def delete_everything(self) -> None:
        payloads = self.studio.delete_everything()
        self.unsaid()
        self.sent(payloads)

    @rule(kept=picks, removed=picks)
    @precondition(two_tasks)
    def remove_duplicates(self, kept: int, removed: int) -> None:
        one, other = self.task(kept), self.task(removed)
        if one != other:
            payloads = self.studio.remove_duplicates(one, other)
            self.unsaid()
            self.sent(payloads)

    @rule(pick=picks, text=st.sampled_from(["x", "y"]))
    @precondition(some_task)
    def edit_a_task(self, pick: int, text: str) -> None:
        payloads = self.studio.edit_task(self.task(pick), text)
        self.unsaid()
        self.sent(payloads)


class BadNetwork(Unsaid):
    """Two hear of it: one everything in order, one what a bad network leaves of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ordered = Follower(self.client, "ordered:", self.studio)
        self.lossy = Follower(self.client, "lossy:", self.studio)
        self.pending: list[Payload] = []

    def sent(self, payloads: list[Payload]) -> None:
        for payload in payloads:
            heard = self.ordered.hear(payload)
            drift = {name: difference for name, difference in heard.project.drift.items() if difference}
            assert drift == heard.project.derived.differences(self.studio.counters())
        self.pending.extend(payloads)

    def unsaid(self) -> None:
        self.behind = True

    @invariant()
    def the_one_in_order_is_right_but_for_what_nobody_said(self) -> None:
        if self.behind:
            self.ordered.sync()
            self.behind = False
        self.ordered.check()

    @precondition(lambda self: self.pending)
    @rule(pick=picks, double=st.booleans())
    def one_arrives_late_or_early_and_perhaps_again(self, pick: int, double: bool) -> None:
        at = pick % len(self.pending)
        payload = self.pending[at] if double else self.pending.pop(at)
        self.lossy.hear(payload)

    @precondition(lambda self: self.pending)
    @rule(swap=st.booleans())
    def all_arrive(self, swap: bool) -> None:
        for payload in reversed(self.pending) if swap else self.pending:
            self.lossy.hear(payload)
        self.pending = []

    @precondition(lambda self: self.pending)
    @rule(pick=picks)
    def one_is_lost(self, pick: int) -> None:
        self.pending.pop(pick % len(self.pending))

    @precondition(lambda self: self.pending)
    @rule()
    def all_are_lost(self) -> None:
        self.pending = []

    @rule(size=st.integers(1, 3))
    def a_complete_sync_makes_up_for_it(self, size: int) -> None:
        self.lossy.sync(size)
        self.lossy.check()

    def teardown(self) -> None:
        self.lossy.check_counts()
        self.lossy.sync()
        self.lossy.check()


class SyncMeanwhile(Unsaid):
    """Events in order while syncs run all the time, in steps: what an answer says may be old when it is applied.

    Things happen seconds apart: a deletion that follows at once where an annotation took another's id without a word
    may be taken for the one that was not said.
    """

    step_us = 4_000_000

    def __init__(self) -> None:
        super().__init__()
        self.follower = Follower(self.client, "meanwhile:", self.studio)
        self.random = Random(0)
        self.sync: Sync | None = None
        self.sees_all = False
        self.on_their_way = 0
        self.next_page: int | None = 0
        self.read: list[tuple[Page, Between]] = []

    @initialize(seed=st.integers(0, 10_000))
    def choose(self, seed: int) -> None:
        self.random = Random(seed)

    def sent(self, payloads: list[Payload]) -> None:
        for left, payload in zip(range(len(payloads) - 1, -1, -1), payloads, strict=True):
            self.follower.hear(payload)
            self.on_their_way = left
            self.go_on()

    def unsaid(self) -> None:
        self.behind = True
        self.sees_all = False

    def unclear(self) -> None:
        self.sees_all = self.sees_all and not self.behind

    @invariant()
    def it_is_right_but_for_what_nobody_said(self) -> None:
        if self.behind:
            self.follower.check_counts()
        else:
            self.follower.check()

    def go_on(self) -> None:
        if self.sync is None:
            self.sync = self.follower.begin()
            self.sees_all = True
            self.next_page = 0
            self.read = []
        step = self.random.choice([self.read_on, self.read_on, self.apply, self.end, self.crash, lambda: None])
        step()

    def read_on(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            if self.next_page is not None:
                self.read.append(self.follower.fetch(self.next_page, self.random.randint(1, 2)))
                self.next_page = self.read[-1][1][1]

    def apply(self) -> None:
        for page, between in self.read:
            self.follower.syncs.apply(self.sync, page, self.follower.now, between=between)
        self.read = []

    def end(self) -> None:
        while self.next_page is not None:
            self.read_on()
        self.apply()
        differs = self.follower.finish(self.sync)
        if self.sees_all:
            self.behind = False
            # Label Studio's own START_TRAINING comes before the event of the annotation that it counts (fact 12).
            assert not differs or self.on_their_way
        self.sync = None

    def crash(self) -> None:
        before = self.sync
        self.sync = self.follower.syncs.resume(self.studio.uid, self.follower.now)
        assert self.sync is not None
        with pytest.raises(LeaseLost):
            self.follower.syncs.apply(before, [], self.follower.now)
        self.next_page = self.sync.cursor
        self.read = []


class Disordered(People):
    """Nothing is lost, but the order is: the set comes out right without a sync.

    What carries a date may come in any order. A deletion, which carries none, changes places with one neighbour (two
    that change places cannot be told apart, fact 25). Ids of tasks do not come back here: the deletion of a task of
    which nothing was ever heard could mean either.
    """

    task_ids_come_back = False

    def __init__(self) -> None:
        super().__init__()
        self.follower = Follower(self.client, "disordered:", self.studio)
        self.random = Random(0)
        self.pending: list[Payload] = []

    @initialize(seed=st.integers(0, 10_000))
    def choose(self, seed: int) -> None:
        self.random = Random(seed)

    def sent(self, payloads: list[Payload]) -> None:
        self.pending.extend(payloads)
        if self.random.random() < 0.15:
            self.they_arrive()

    def they_arrive(self) -> None:
        for payload in disorder(self.pending, self.random):
            self.follower.hear(payload)
        self.pending = []
        self.follower.check()

    def teardown(self) -> None:
        self.they_arrive()
        if self.follower.project() is not None:
            self.follower.sync()
            self.follower.check()


def disorder(payloads: list[Payload], random: Random) -> list[Payload]:
    found: list[Payload] = []
    for deletions, group in itertools.groupby(payloads, key=lambda one: one["action"].endswith("_DELETED")):
        run = list(group)
        if not deletions:
            random.shuffle(run)
        found.extend(run)
    at = 0
    while at < len(found) - 1:
        first, second = found[at : at + 2]
        if first["action"].endswith("_DELETED") != second["action"].endswith("_DELETED") and random.random() < 0.5:
            found[at : at + 2] = second, first
            at += 1
        at += 1
    return found


def run(machine: type[People], client: redis.Redis, runs: int = RUNS) -> None:
    """So many runs of all steps: hypothesis is told to make no shorter ones, and they are counted."""
    lengths: list[int] = []

    class Counted(machine):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.steps = 0
            super().__init__()

        @invariant()
        def a_step_is_done(self) -> None:
            self.steps += 1

        def teardown(self) -> None:
            super().teardown()
            lengths.append(self.steps)

    Counted.client = client
    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=runs + 2,
            stateful_step_count=STEPS + _BEGINNINGS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=[Phase.explicit, Phase.reuse, Phase.generate]  # shrinking takes minutes; locally it is worth them
            if "CI" in os.environ
            else list(Phase),
        ),
        _min_steps=STEPS + _BEGINNINGS,
    )
    assert sum(length >= STEPS for length in lengths) >= runs, f"{len(lengths)} runs, too many of them short"


def test_events_in_order_need_no_sync_and_after_a_bad_network_a_complete_sync_makes_all_equal(
    valkey: redis.Redis,
) -> None:
    run(BadNetwork, valkey)


def test_what_an_event_changed_since_a_sync_began_is_neither_overwritten_nor_removed(valkey: redis.Redis) -> None:
    run(SyncMeanwhile, valkey)


def test_events_in_disorder_leave_the_set_right_without_a_sync(valkey: redis.Redis) -> None:
    run(Disordered, valkey)
