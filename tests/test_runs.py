"""Runs: what waits, what trains and what is over, for one project after another, against a real Valkey."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.errors import Unavailable
from ml_backend.runs import MAX_FAILURES, MAX_LOSSES, Lease, Runs, label_studio_status
from ml_backend.state.due import DueList
from tests.valkey import connect

if TYPE_CHECKING:
    from pathlib import Path

    import redis

UID = "2.1795333883"
NOW = 1_795_400_000.25


@pytest.fixture
def runs(redis_client: redis.Redis) -> Runs:
    return Runs(redis_client, lease_s=15.0)


def still_queued(run_id: str, enqueue: int) -> bool:
    return True


def gone_from_rq(run_id: str, enqueue: int) -> bool:
    return False


def ask(runs: Runs, *, click: bool = False, due: float = NOW, now: float = NOW, reason: str = "ten labels") -> str:
    trigger = "click" if click else "policy"
    return runs.request(UID, trigger=trigger, reason=reason, due=due, click=click, now=now).id


def begin(runs: Runs, *, now: float = NOW, worker: str = "w1", click: bool = False) -> Lease:
    """Ask for a run and take it through the gate."""
    run_id = ask(runs, now=now, due=now, click=click)
    dispatched = runs.dispatch(UID, now, still_queued)
    assert dispatched is not None
    lease = runs.start(UID, run_id, worker, now)
    assert lease is not None
    return lease


def fail(runs: Runs, lease: Lease, now: float = NOW) -> bool:
    return runs.finish(lease, "failed", reason="it raised", error="ValueError: no", traceback="long", now=now)


def lose_until_over(runs: Runs) -> float:
    now = NOW
    begin(runs, now=now)
    for _ in range(MAX_LOSSES):
        now += 15
        left = runs.expire(UID, now)
        assert left is not None
        if left.status == "lost":
            return now
        now = left.retry_at
        dispatched = runs.dispatch(UID, now, gone_from_rq)
        assert dispatched is not None
        assert runs.start(UID, dispatched.run_id, "w", now) is not None
    raise AssertionError("it was never given up")


class TestAsking:
    def test_a_first_request_waits_under_an_id_that_rq_takes(self, runs: Runs) -> None:
        asked = runs.request(UID, trigger="policy", reason="ten labels", due=NOW + 2, click=False, now=NOW)
        assert (asked.id, asked.joined, asked.held) == ("2-1795333883-1", False, "")
        waiting = runs.waiting(UID)
        assert waiting is not None
        assert (waiting.status, waiting.reason, waiting.due_at) == ("queued", "ten labels", NOW + 2)

    def test_a_second_request_joins_the_first_and_gets_its_id(self, runs: Runs) -> None:
        first = ask(runs, due=NOW + 30)
        asked = runs.request(UID, trigger="policy", reason="more", due=NOW + 2, click=False, now=NOW + 1)
        assert (asked.id, asked.joined) == (first, True)
        waiting = runs.waiting(UID)
        assert waiting is not None
        assert (waiting.due_at, waiting.joined, waiting.reason) == (NOW + 2, 1, "ten labels")

    def test_a_later_due_time_does_not_put_a_run_off(self, runs: Runs) -> None:
        ask(runs, due=NOW + 2)
        ask(runs, due=NOW + 30)
        assert runs.standing(UID).look_at == NOW + 2

    def test_a_click_sticks_to_the_run_that_it_joins(self, runs: Runs) -> None:
        ask(runs, due=NOW + 30)
        ask(runs, click=True, reason="Start Training")
        ask(runs, due=NOW + 30, reason="another label")
        waiting = runs.waiting(UID)
        assert waiting is not None
        assert (waiting.click, waiting.trigger, waiting.reason) == (True, "click", "Start Training")

    def test_a_request_during_a_run_waits_behind_it(self, runs: Runs) -> None:
        lease = begin(runs)
        second = ask(runs, now=NOW + 1)
        assert second != lease.run_id
        assert runs.dispatch(UID, NOW + 5, still_queued) is None
        runs.finish(lease, "succeeded", reason="promoted", now=NOW + 6)
        dispatched = runs.dispatch(UID, NOW + 6, still_queued)
        assert dispatched is not None
        assert dispatched.run_id == second

    def test_what_the_policy_saw_before_a_run_started_brings_none_behind_it(self, runs: Runs) -> None:
        lease = begin(runs)
        assert runs.request_if_free(UID, trigger="event", reason="seen before", now=NOW - 1) is None
        assert runs.waiting(UID) is None
        runs.finish(lease, "succeeded", reason="done", now=NOW + 5)
        assert runs.request_if_free(UID, trigger="event", reason="seen before", now=NOW - 1) is None
        asked = runs.request_if_free(UID, trigger="event", reason="seen after", now=NOW + 6)
        assert asked is not None
        joining = runs.request_if_free(UID, trigger="event", reason="seen before", now=NOW - 1)
        assert joining is not None
        assert (joining.id, joining.joined) == (asked.id, True)

    def test_the_clock_is_told_when_to_look(self, runs: Runs, redis_client: redis.Redis) -> None:
        ask(runs, due=NOW + 30)
        ask(runs, due=NOW + 2)
        assert redis_client.zscore("mlb:due", UID) == NOW + 2

    def test_a_uid_of_another_form_is_refused(self, runs: Runs) -> None:
        with pytest.raises(ValueError, match="uid"):
            runs.request("2.17}:x", trigger="t", reason="r", due=NOW, click=False, now=NOW)


class TestDispatch:
    def test_nothing_is_handed_over_before_its_time(self, runs: Runs) -> None:
        ask(runs, due=NOW + 2)
        assert runs.dispatch(UID, NOW + 1.9, still_queued) is None
        assert runs.dispatch(UID, NOW + 2, still_queued) is not None

    def test_a_run_is_handed_over_once(self, runs: Runs) -> None:
        ask(runs)
        assert runs.dispatch(UID, NOW, gone_from_rq) is not None
        assert runs.dispatch(UID, NOW + 14, gone_from_rq) is None

    def test_a_job_that_is_gone_from_rq_is_handed_over_again_after_a_lease(self, runs: Runs) -> None:
        ask(runs)
        first = runs.dispatch(UID, NOW, gone_from_rq)
        again = runs.dispatch(UID, NOW + 15, gone_from_rq)
        assert first is not None
        assert again is not None
        assert (first.run_id, first.enqueue, again.run_id, again.enqueue) == (again.run_id, 1, first.run_id, 2)

    def test_a_job_that_still_waits_in_rq_is_left_there(self, runs: Runs) -> None:
        ask(runs)
        runs.dispatch(UID, NOW, still_queued)
        assert runs.dispatch(UID, NOW + 15, still_queued) is None
        assert runs.dispatch(UID, NOW + 29, gone_from_rq) is None, "asked again only after another lease"

    def test_a_click_goes_to_the_front_even_when_the_run_was_handed_over_before(self, runs: Runs) -> None:
        ask(runs)
        runs.dispatch(UID, NOW, still_queued)
        ask(runs, click=True)
        dispatched = runs.dispatch(UID, NOW, still_queued)
        assert dispatched is not None
        assert (dispatched.enqueue, dispatched.front) == (2, True)


class TestGate:
    def test_of_many_who_start_one_run_exactly_one_gets_in(self, runs: Runs) -> None:
        run_id = ask(runs)
        runs.dispatch(UID, NOW, still_queued)
        with ThreadPoolExecutor(8) as pool:
            leases = list(pool.map(lambda n: runs.start(UID, run_id, f"w{n}", NOW), range(24)))
        assert len([lease for lease in leases if lease]) == 1

    def test_a_run_that_was_not_handed_over_does_not_start(self, runs: Runs) -> None:
        run_id = ask(runs)
        assert runs.start(UID, run_id, "w", NOW) is None

    def test_a_duplicate_job_does_not_start_a_run_that_is_over(self, runs: Runs) -> None:
        lease = begin(runs)
        runs.finish(lease, "succeeded", reason="promoted", now=NOW)
        assert runs.start(UID, lease.run_id, "w2", NOW) is None

    def test_a_stale_job_does_not_start_a_run_during_its_back_off(self, runs: Runs) -> None:
        lease = begin(runs)
        runs.expire(UID, NOW + 15)
        assert runs.start(UID, lease.run_id, "w2", NOW + 15.1) is None

    def test_each_start_has_a_greater_token(self, runs: Runs) -> None:
        tokens = []
        for _ in range(3):
            lease = begin(runs)
            tokens.append(lease.token)
            runs.finish(lease, "succeeded", reason="promoted", now=NOW)
        assert tokens == sorted(set(tokens))

    def test_a_lease_from_before_redis_lost_its_data_is_worth_nothing(
        self, runs: Runs, redis_client: redis.Redis
    ) -> None:
        before = begin(runs)
        redis_client.flushall()
        after = begin(runs)
        assert (before.run_id, before.token) == (after.run_id, after.token)
        assert not runs.check(before)
        assert runs.check(after)
        assert not runs.finish(before, "succeeded", reason="promoted", now=NOW)


class TestLease:
    def test_a_renewed_lease_does_not_run_out(self, runs: Runs) -> None:
        lease = begin(runs)
        assert runs.renew(lease, NOW + 10).ok
        assert runs.expire(UID, NOW + 24) is None
        assert runs.check(lease)

    def test_a_silent_trainer_loses_the_project(self, runs: Runs) -> None:
        lease = begin(runs)
        left = runs.expire(UID, NOW + 15)
        assert left is not None
        assert (left.run_id, left.worker, left.status, left.losses) == (lease.run_id, "w1", "queued", 1)
        assert not runs.renew(lease, NOW + 15).ok
        assert not runs.look(lease).ok
        assert not runs.check(lease)

    def test_a_stale_lease_writes_nothing(self, runs: Runs) -> None:
        stale = begin(runs)
        runs.expire(UID, NOW + 15)
        runs.dispatch(UID, NOW + 17, gone_from_rq)
        current = runs.start(UID, stale.run_id, "w2", NOW + 17)
        assert current is not None
        assert not runs.progress(stale, "train", 0.9, "stale", NOW + 18)
        assert not runs.finish(stale, "succeeded", reason="stale", now=NOW + 18)
        assert runs.hand_back(stale, "stale", NOW + 18) is None
        assert runs.lose(stale, "stale", NOW + 18) is None
        running = runs.running(UID)
        assert running is not None
        assert (running.worker, running.phase, running.attempts) == ("w2", "starting", 2)

    def test_the_pauses_after_losses_double_up_to_a_minute(self, runs: Runs) -> None:
        now, pauses = NOW, []
        begin(runs)
        for _ in range(MAX_LOSSES - 1):
            now += 15
            left = runs.expire(UID, now)
            assert left is not None
            pauses.append(left.retry_at - now)
            now = left.retry_at
            dispatched = runs.dispatch(UID, now, gone_from_rq)
            assert dispatched is not None
            assert runs.start(UID, dispatched.run_id, "w", now) is not None
        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], abs=1e-3)

    def test_a_run_that_is_lost_too_often_is_reported_lost_and_frees_the_project(self, runs: Runs) -> None:
        lose_until_over(runs)
        (lost,) = runs.history(UID)
        assert (lost.status, lost.losses, lost.attempts) == ("lost", MAX_LOSSES, MAX_LOSSES)
        standing = runs.standing(UID)
        assert standing.running is None
        assert standing.failures == 0, "a lost worker is not the model's failure"
        assert "given up" in standing.paused

    def test_the_watcher_of_a_dead_trainer_can_speak_for_it(self, runs: Runs) -> None:
        lease = begin(runs, worker="w1")
        assert runs.holder(UID, lease.run_id, "w2") is None
        found = runs.holder(UID, lease.run_id, "w1")
        assert found is not None
        assert fail(runs, found)
        assert runs.holder(UID, lease.run_id, "w1") is None


class TestHandingBack:
    def test_a_run_that_is_handed_back_waits_again_at_once_without_penalty(self, runs: Runs) -> None:
        lease = begin(runs)
        left = runs.hand_back(lease, "a deploy", NOW + 3)
        assert left is not None
        assert (left.status, left.losses, left.retry_at) == ("queued", 0, NOW + 3)
        dispatched = runs.dispatch(UID, NOW + 3, still_queued)
        assert dispatched is not None
        assert dispatched.run_id == lease.run_id

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
    def test_a_lease_is_released_by_its_holders_own_end_of_the_run(self, runs: Runs, outcome: Any) -> None:
        lease = begin(runs)
        assert not runs.released(lease)
        runs.finish(lease, outcome, reason="over", now=NOW)
        assert runs.released(lease)

    def test_a_lease_that_is_handed_back_is_released_and_the_next_attempts_is_not(self, runs: Runs) -> None:
        lease = begin(runs)
        runs.hand_back(lease, "a deploy", NOW)
        again = begin(runs)
        assert runs.released(lease)
        assert not runs.released(again)

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_a_lease_that_ran_out_is_lost_and_not_released(self, runs: Runs, cancelled: bool) -> None:
        lease = begin(runs)
        if cancelled:
            runs.cancel(lease.run_id, NOW)
        assert runs.expire(UID, NOW + 60) is not None
        assert not runs.released(lease)

    def test_the_clock_is_told_when_the_back_off_ends(self, runs: Runs, redis_client: redis.Redis) -> None:
        begin(runs)
        redis_client.zadd("mlb:due", {UID: NOW + 600})
        runs.expire(UID, NOW + 15)
        assert redis_client.zscore("mlb:due", UID) == NOW + 16

    def test_what_waited_behind_it_joins_it(self, runs: Runs) -> None:
        lease = begin(runs)
        behind = ask(runs, now=NOW + 1, due=NOW + 20)
        runs.hand_back(lease, "a deploy", NOW + 3)
        standing = runs.standing(UID)
        assert standing.waiting is not None
        assert (standing.waiting.id, standing.waiting.joined, standing.running) == (lease.run_id, 1, None)
        followed = runs.get(behind)
        assert followed is not None
        assert followed.id == lease.run_id
        assert label_studio_status(followed) == "queued"

    def test_a_click_that_waited_behind_it_is_not_dropped(self, runs: Runs) -> None:
        lease = begin(runs)
        clicked = ask(runs, now=NOW + 1, click=True, reason="Start Training")
        runs.expire(UID, NOW + 15)
        waiting = runs.waiting(UID)
        assert waiting is not None
        assert (waiting.id, waiting.click, waiting.reason) == (lease.run_id, True, "Start Training")
        assert runs.dispatch(UID, NOW + 15, gone_from_rq) is not None, "a click waits for no back-off"
        assert runs.cancel(clicked, NOW + 15) == "cancelled"

    def test_a_click_ends_a_back_off(self, runs: Runs) -> None:
        begin(runs)
        runs.expire(UID, NOW + 15)
        ask(runs, now=NOW + 15, due=NOW + 15, click=True)
        assert runs.dispatch(UID, NOW + 15, gone_from_rq) is not None

    def test_an_automatic_request_does_not_shorten_a_back_off(self, runs: Runs) -> None:
        begin(runs)
        runs.expire(UID, NOW + 15)
        ask(runs, now=NOW + 15, due=NOW + 15)
        assert runs.dispatch(UID, NOW + 15.9, gone_from_rq) is None
        assert runs.dispatch(UID, NOW + 16, gone_from_rq) is not None


class TestEnds:
    def test_a_run_that_succeeded_tells_what_it_did(self, runs: Runs) -> None:
        lease = begin(runs)
        runs.progress(lease, "train", 0.5, "epoch 1 of 2", NOW + 1)
        running = runs.running(UID)
        assert running is not None
        assert (running.phase, running.fraction, running.message) == ("train", 0.5, "epoch 1 of 2")
        assert runs.finish(lease, "succeeded", reason="better than v1", details={"version": "v2"}, now=NOW + 9)
        run = runs.get(lease.run_id)
        assert run is not None
        assert (run.status, run.ending, run.details, run.duration_s) == (
            "succeeded",
            "better than v1",
            '{"version": "v2"}',
            9,
        )
        assert label_studio_status(run) == "finished"

    def test_finishing_twice_is_finishing_once(self, runs: Runs) -> None:
        lease = begin(runs)
        assert fail(runs, lease)
        assert fail(runs, lease), "its answer may have been lost on the way"
        assert not runs.finish(lease, "succeeded", reason="no", now=NOW)
        assert (len(runs.history(UID)), runs.standing(UID).failures) == (1, 1)

    def test_three_failures_in_a_row_pause_the_project_with_the_reason(self, runs: Runs) -> None:
        for _ in range(MAX_FAILURES):
            fail(runs, begin(runs))
        assert runs.standing(UID).paused == "3 runs failed in a row; the last one: ValueError: no"
        asked = runs.request(UID, trigger="policy", reason="more", due=NOW, click=False, now=NOW)
        assert "3 runs failed" in asked.held
        assert runs.dispatch(UID, NOW, still_queued) is None
        assert runs.standing(UID).look_at is None

    def test_a_success_starts_the_count_again(self, runs: Runs) -> None:
        for _ in range(MAX_FAILURES - 1):
            fail(runs, begin(runs))
        runs.finish(begin(runs), "succeeded", reason="promoted", now=NOW)
        fail(runs, begin(runs))
        assert (runs.standing(UID).paused, runs.standing(UID).failures) == ("", 1)

    def test_too_little_to_train_on_does_not_count_as_a_failure(self, runs: Runs) -> None:
        for _ in range(MAX_FAILURES):
            runs.finish(begin(runs), "failed", reason="one class", counts=False, now=NOW)
        assert runs.standing(UID).paused == ""

    def test_a_click_lifts_a_pause(self, runs: Runs) -> None:
        for _ in range(MAX_FAILURES):
            fail(runs, begin(runs))
        ask(runs, click=True)
        assert runs.standing(UID).paused == ""
        assert runs.dispatch(UID, NOW, still_queued) is not None

    def test_a_changed_training_set_lifts_a_pause_for_one_more_attempt(self, runs: Runs) -> None:
        for _ in range(MAX_FAILURES):
            fail(runs, begin(runs))
        ask(runs)
        assert runs.resume(UID, NOW)
        assert not runs.resume(UID, NOW)
        dispatched = runs.dispatch(UID, NOW, still_queued)
        assert dispatched is not None
        lease = runs.start(UID, dispatched.run_id, "w", NOW)
        assert lease is not None
        fail(runs, lease)
        assert "4 runs failed in a row" in runs.standing(UID).paused

    def test_the_history_is_bounded_and_newest_first(self, runs: Runs, redis_client: redis.Redis) -> None:
        for _ in range(205):
            runs.finish(begin(runs), "succeeded", reason="promoted", now=NOW)
        assert redis_client.llen(f"mlb:{{{UID}}}:history") == 200
        assert [run.number for run in runs.history(UID, limit=3)] == [205, 204, 203]

    def test_records_expire_a_month_after_the_end_and_not_before(self, runs: Runs, redis_client: redis.Redis) -> None:
        lease = begin(runs)
        assert redis_client.ttl(f"mlb:run:{lease.run_id}") == -1
        fail(runs, lease)
        assert redis_client.ttl(f"mlb:run:{lease.run_id}") > 29 * 24 * 3600

    def test_a_traceback_is_kept_with_the_record_and_stays_out_of_the_history(self, runs: Runs) -> None:
        lease = begin(runs)
        fail(runs, lease)
        run = runs.get(lease.run_id)
        assert run is not None
        assert run.traceback == "long"
        assert runs.history(UID)[0].traceback == ""
        assert "long" not in repr(run)

    def test_an_error_that_utf8_cannot_carry_does_not_lose_the_end(self, runs: Runs) -> None:
        lease = begin(runs)
        assert runs.finish(lease, "failed", reason="\udcff", error="bad \ud800 name" * 1000, now=NOW)
        assert runs.history(UID)[0].status == "failed"

    def test_a_retried_run_counts_once_for_the_day(self, runs: Runs) -> None:
        lease = begin(runs)
        runs.hand_back(lease, "a deploy", NOW)
        runs.dispatch(UID, NOW, still_queued)
        runs.start(UID, lease.run_id, "w2", NOW + 1)
        assert runs.started_since(UID, NOW - 60) == 1
        assert runs.started_since(UID, NOW + 60) == 0

    def test_a_run_that_somebody_clicked_for_does_not_count_for_the_day(self, runs: Runs) -> None:
        finished = begin(runs, click=True)
        runs.finish(finished, "succeeded", reason="fine", now=NOW)
        assert runs.started_since(UID, NOW - 60) == 0
        begin(runs)
        assert runs.started_since(UID, NOW - 60) == 1


class TestCancelling:
    def test_a_waiting_run_is_cancelled_at_once(self, runs: Runs) -> None:
        run_id = ask(runs)
        assert runs.cancel(run_id, NOW, "by hand") == "cancelled"
        run = runs.get(run_id)
        assert run is not None
        assert (run.status, run.ending, label_studio_status(run)) == ("cancelled", "by hand", "canceled")
        assert runs.waiting(UID) is None

    def test_a_training_run_is_told_and_ends_it_itself(self, runs: Runs) -> None:
        lease = begin(runs)
        assert runs.cancel(lease.run_id, NOW) == "cancelling"
        assert runs.look(lease).cancelled
        assert runs.renew(lease, NOW).cancelled
        assert runs.finish(lease, "cancelled", reason="cancelled", now=NOW)
        assert runs.cancel(lease.run_id, NOW) == "over"

    @pytest.mark.parametrize("how", ["expire", "hand_back", "lose"])
    def test_a_cancelled_run_never_waits_again(self, runs: Runs, how: str) -> None:
        lease = begin(runs)
        runs.cancel(lease.run_id, NOW)
        later = NOW + 15
        left = runs.expire(UID, later) if how == "expire" else getattr(runs, how)(lease, "gone", later)
        assert left.status == "cancelled"
        assert runs.waiting(UID) is None

    def test_a_run_that_nobody_knows_cannot_be_cancelled(self, runs: Runs) -> None:
        assert runs.cancel("2-1795333883-99", NOW) is None
        assert runs.cancel("x; DROP", NOW) is None
        assert runs.get("x; DROP") is None
        assert label_studio_status(runs.get("2-1795333883-99")) == "unknown"


def test_projects_do_not_touch_each_other(runs: Runs) -> None:
    begin(runs)
    other = runs.request("2.1795333884", trigger="policy", reason="ten", due=NOW, click=False, now=NOW)
    assert other.id == "2-1795333884-1"
    assert runs.dispatch("2.1795333884", NOW, still_queued) is not None


def test_a_redis_that_does_not_answer_is_unavailable(redis_socket: Path) -> None:
    with connect(redis_socket.with_name("nobody")) as client, pytest.raises(Unavailable):
        Runs(client).standing(UID)


def test_machines_share_the_clock_of_redis(runs: Runs, redis_client: redis.Redis) -> None:
    seconds, _ = redis_client.time()
    assert 0 <= runs.time() - seconds < 2


def test_a_project_whose_clock_died_over_it_is_looked_at_again_after_the_claim(redis_client: redis.Redis) -> None:
    due = DueList(redis_client, claim_s=2.0)
    due.ask(UID, 0.0)
    assert due.claim(100.0)[0] == [UID]
    assert due.claim(101.9)[0] == []
    assert due.claim(102.1)[0] == [UID]
