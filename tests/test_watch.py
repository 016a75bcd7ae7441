"""What a worker makes of its run from outside the trainer, where Redis and the trainer tell different stories."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from ml_backend.jobs.carriage import CarriedJob
from ml_backend.runs import Runs
from ml_backend.worker.watch import RunWatch

if TYPE_CHECKING:
    import redis

    from ml_backend.runs import Lease, Run

UID = "7.1795333883"
T = 1_800_000_000.0
LEASE_S = 15.0


class Watched:
    """One run, handed to a worker that watches over it."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.runs = Runs(client, lease_s=LEASE_S)
        self.id = self.runs.request(UID, trigger="test", reason="a test", due=T, click=True, now=T).id
        self.hand_over(T)
        job = CarriedJob("job", connection=client)
        job.function, job.arguments, job.timeout = "train", {"uid": UID, "run_id": self.id}, 600
        self.watch = RunWatch(self.runs, job, "ours")

    @property
    def run(self) -> Run:
        found = self.runs.get(self.id)
        assert found is not None
        return found

    def hand_over(self, now: float) -> None:
        assert self.runs.dispatch(UID, now, lambda *_: True) is not None

    def start(self, worker: str = "ours", now: float = T) -> Lease:
        lease = self.runs.start(UID, self.id, worker, now)
        assert lease is not None
        return lease

    def another_succeeds(self, now: float) -> None:
        assert self.runs.finish(self.start("another", now), "succeeded", reason="trained", now=now)


@pytest.fixture
def watched(valkey: redis.Redis) -> Watched:
    return Watched(valkey)


# --- an end without a word --------------------------------------------------------------------------------------------


def test_who_died_before_it_could_start_has_failed(watched: Watched) -> None:
    assert not watched.watch.lost(0.0)
    watched.watch.settle(-signal.SIGSEGV, stopped=False, overdue=False)
    assert (watched.run.status, watched.run.attempts) == ("failed", 1)


@pytest.mark.parametrize("looks", [[1.0], [0.0, 1.0]], ids=["it had started", "it started after a look"])
def test_who_was_killed_since_redis_went_back_to_before_its_start_has_not_failed(
    watched: Watched, looks: list[float]
) -> None:
    before = {key: watched.redis.dump(key) for key in watched.redis.scan_iter()}
    for at in looks[:-1]:
        assert not watched.watch.lost(at)
    watched.start()
    assert not watched.watch.lost(looks[-1])
    watched.redis.flushall()
    for key, value in before.items():
        watched.redis.restore(key, 0, value)
    watched.watch.settle(-signal.SIGKILL, stopped=False, overdue=False)
    assert (watched.run.status, watched.runs.standing(UID).failures) == ("queued", 0)


# --- a lease that is lost ---------------------------------------------------------------------------------------------


def test_who_trains_on_is_lost_though_another_has_carried_its_run_through(watched: Watched) -> None:
    watched.start()
    assert not watched.watch.lost(0.0)
    assert watched.runs.expire(UID, T + 20) is not None
    watched.hand_over(T + 30)
    watched.another_succeeds(T + 30)
    assert watched.watch.lost(30.0)


def test_who_trains_on_is_lost_when_redis_knows_of_no_run_any_more(watched: Watched) -> None:
    watched.start()
    assert not watched.watch.lost(0.0)
    watched.redis.flushall()
    assert watched.watch.lost(30.0)


def test_who_has_not_been_seen_to_train_is_not_lost(watched: Watched) -> None:
    watched.another_succeeds(T + 1)
    assert not watched.watch.lost(30.0)


def test_who_succeeded_may_take_its_time(watched: Watched) -> None:
    lease = watched.start()
    assert not watched.watch.lost(0.0)
    assert watched.runs.finish(lease, "succeeded", reason="trained", now=T + 1)
    assert not any(watched.watch.lost(at) for at in (10.0, 20.0, 1000.0))


def test_who_handed_its_run_back_has_a_lease_to_end_whatever_becomes_of_the_run(watched: Watched) -> None:
    lease = watched.start()
    assert not watched.watch.lost(0.0)
    assert watched.runs.hand_back(lease, "asked to stop", T + 1) is not None
    assert not watched.watch.lost(10.0)
    watched.hand_over(T + 11)
    watched.another_succeeds(T + 11)
    assert not watched.watch.lost(10.0 + LEASE_S)
    assert watched.watch.lost(16.0 + LEASE_S)
