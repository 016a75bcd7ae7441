"""Runs against a model of them: any order of requests, starts, losses and cancellations keeps the promises."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ml_backend.runs import MAX_FAILURES, MAX_LOSSES, Lease, Runs
from tests.valkey import connect, running_valkey

UID = "2.1795333883"
LEASE_S = 15.0


@dataclass
class Expected:
    """What is expected of the project, written down independently of the scripts."""

    waiting: str | None = None
    due: float = 0.0
    not_before: float = 0.0
    clicked: set[str] = field(default_factory=set)
    handed_over: bool = False
    running: Lease | None = None
    expires: float = 0.0
    cancelling: bool = False
    paused: bool = False
    failures: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    into: dict[str, str] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)


class RunsMachine(RuleBasedStateMachine):
    """Times move on only by a rule; every answer is compared with what is expected."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = contextlib.ExitStack()
        self.client = self.resources.enter_context(connect(_SOCKETS[-1], timeout=5))
        self.client.flushall()
        self.runs = Runs(self.client, lease_s=LEASE_S)
        self.now = 1_795_400_000.0
        self.expected = Expected()
        self.leases: list[Lease] = []
        self.tokens = [0]

    def teardown(self) -> None:
        self.resources.close()

    # --- what people, events and workers do ---------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 7.0, 15.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(delay=st.sampled_from([0.0, 2.0, 30.0]), click=st.booleans())
    def request(self, delay: float, click: bool) -> None:
        due = self.now if click else self.now + delay
        asked = self.runs.request(UID, trigger="t", reason="r", due=due, click=click, now=self.now)
        e = self.expected
        assert asked.joined == (e.waiting is not None)
        if e.waiting is None:
            e.waiting, e.due, e.not_before, e.handed_over = asked.id, due, 0.0, False
            assert asked.id not in e.ids
            e.ids.append(asked.id)
        else:
            assert asked.id == e.waiting
            e.due = min(e.due, due)
        if click:
            e.not_before, e.paused = 0.0, False
            if asked.id not in e.clicked:
                e.clicked.add(asked.id)
                e.handed_over = False
        assert bool(asked.held) == e.paused

    @rule(in_rq=st.booleans())
    def dispatch(self, in_rq: bool) -> None:
        e = self.expected
        dispatched = self.runs.dispatch(UID, self.now, lambda _run_id, _enqueue: in_rq)
        may = e.waiting is not None and e.running is None and max(e.due, e.not_before) <= self.now
        may = may and (not e.paused or e.waiting in e.clicked)
        if dispatched is None:
            assert not may or e.handed_over
            return
        assert may
        assert not (e.handed_over and in_rq)
        assert (dispatched.run_id, dispatched.front) == (e.waiting, e.waiting in e.clicked)
        e.handed_over = True

    @precondition(lambda self: self.expected.running is None)
    @rule()
    def a_worker_takes_what_waits(self) -> None:
        if self.expected.waiting is None:
            self.request(0.0, click=False)
        self.dispatch(in_rq=False)
        self._start(self.expected.waiting or "")

    @rule()
    def the_clock_has_looked(self) -> None:
        look_at = self.runs.standing(UID).look_at
        self.client.zadd("mlb:due", {UID: look_at if look_at is not None else self.now + 600})

    @precondition(lambda self: self.expected.ids)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self._start(data.draw(st.sampled_from(self.expected.ids[-3:])))

    def _start(self, run_id: str) -> None:
        e = self.expected
        lease = self.runs.start(UID, run_id, "w", self.now)
        may = e.running is None and e.waiting == run_id and e.handed_over and (not e.paused or run_id in e.clicked)
        assert (lease is not None) == may
        if lease is not None:
            assert lease.token > self.tokens[-1], "fencing tokens grow"
            self.tokens.append(lease.token)
            self.leases.append(lease)
            e.running, e.waiting, e.expires, e.cancelling = lease, None, self.now + LEASE_S, False

    # --- what a trainer does, be its lease current or stale -----------------------------------------------------------

    def _some_lease(self, data: st.DataObject) -> tuple[Lease, bool]:
        lease = data.draw(st.sampled_from(self.leases[-3:]))
        return lease, lease is self.expected.running

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease, current = self._some_lease(data)
        renewed = self.runs.renew(lease, self.now)
        assert (renewed.ok, renewed.cancelled) == (current, current and self.expected.cancelling)
        assert self.runs.check(lease) == current
        if current:
            self.expected.expires = self.now + LEASE_S

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        lease, current = self._some_lease(data)
        assert self.runs.progress(lease, "train", 0.5, "half", self.now) == current

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def finish(self, data: st.DataObject, outcome: str) -> None:
        lease, current = self._some_lease(data)
        written = self.runs.finish(lease, outcome, reason="r", error="e", now=self.now)  # type: ignore[arg-type]
        e = self.expected
        if not current:
            last = next(each for each in reversed(self.leases) if each.run_id == lease.run_id)
            assert written == (lease is last and e.ended.get(lease.run_id) == outcome)
            return
        assert written
        e.running = None
        e.ended[lease.run_id] = outcome
        if outcome == "succeeded":
            e.failures = 0
        elif outcome == "failed":
            e.failures += 1
            e.paused = e.paused or e.failures >= MAX_FAILURES

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), how=st.sampled_from(["hand_back", "lose"]))
    def leave(self, data: st.DataObject, how: str) -> None:
        lease, current = self._some_lease(data)
        left = getattr(self.runs, how)(lease, "gone", self.now)
        assert (left is not None) == current
        if current:
            self._left(lose=how == "lose")

    @rule()
    def expire(self) -> None:
        e = self.expected
        left = self.runs.expire(UID, self.now)
        assert (left is not None) == (e.running is not None and e.expires <= self.now)
        if left is not None:
            self._left(lose=True)

    def _left(self, *, lose: bool) -> None:
        e = self.expected
        assert e.running is not None
        run_id = e.running.run_id
        e.running = None
        if e.cancelling:
            e.ended[run_id] = "cancelled"
            return
        not_before = self.now
        if lose:
            losses = e.losses[run_id] = e.losses.get(run_id, 0) + 1
            if losses >= MAX_LOSSES:
                e.ended[run_id] = "lost"
                e.paused = True
                return
            not_before += min(2 ** (losses - 1), 60)
        if e.waiting is not None:
            if e.waiting in e.clicked:
                not_before = self.now
                e.clicked.add(run_id)
            e.into[e.waiting] = run_id
        e.waiting, e.due, e.not_before, e.handed_over = run_id, self.now, not_before, False

    @precondition(lambda self: self.expected.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        e = self.expected
        asked = data.draw(st.sampled_from(e.ids[-3:]))
        run_id = e.into.get(asked, asked)
        answer = self.runs.cancel(asked, self.now)
        if run_id == e.waiting:
            assert answer == "cancelled"
            e.waiting = None
            e.ended[run_id] = "cancelled"
        elif e.running is not None and run_id == e.running.run_id:
            assert answer == "cancelling"
            e.cancelling = True
        else:
            assert answer == "over"

    @rule()
    def resume(self) -> None:
        assert self.runs.resume(UID, self.now) == self.expected.paused
        self.expected.paused = False

    # --- what holds at any time ---------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_waits_and_at_most_one_trains(self) -> None:
        e = self.expected
        standing = self.runs.standing(UID)
        assert (standing.waiting.id if standing.waiting else None) == e.waiting
        assert (standing.running.id if standing.running else None) == (e.running.run_id if e.running else None)
        assert bool(standing.paused) == e.paused
        assert standing.failures == e.failures
        if standing.waiting:
            assert standing.waiting.status == "queued"
            assert standing.waiting.click == (standing.waiting.id in e.clicked)
        if standing.running:
            assert standing.running.status == "started"

    @invariant()
    def every_id_that_was_given_out_leads_to_the_truth(self) -> None:
        e = self.expected
        for run_id in e.ids[-4:]:
            run = self.runs.get(run_id)
            assert run is not None
            target = e.into.get(run_id, run_id)
            assert run.id == target
            if target in e.ended:
                assert run.status == e.ended[target]
                assert run.over
            else:
                assert target in {e.waiting, e.running.run_id if e.running else None}, (
                    "no run, and no click, is dropped"
                )

    @invariant()
    def the_clock_looks_in_time(self) -> None:
        standing = self.runs.standing(UID)
        score = self.client.zscore("mlb:due", UID)
        if standing.look_at is not None:
            assert score is not None
            assert score <= max(standing.look_at, self.now)


_SOCKETS: list = []


def test_any_order_of_transitions_keeps_the_promises() -> None:
    with running_valkey() as socket:
        _SOCKETS.append(socket)
        RunsMachine.TestCase.settings = settings(
            max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        )
        RunsMachine.TestCase("runTest").runTest()
        _SOCKETS.clear()
