"""Jobs: what is handed to RQ, what RQ still holds, and what killed workers leave in its books."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest
from rq.serializers import JSONSerializer

from ml_backend.errors import Unavailable
from ml_backend.jobs import Jobs
from ml_backend.jobs.carriage import CarriedJob, CarriedQueue
from tests.valkey import connect

if TYPE_CHECKING:
    from pathlib import Path

    import redis

UID, RUN = "2.1795333883", "2-1795333883-1"
NOW = 1_795_400_000.0


@pytest.fixture
def jobs(redis_client: redis.Redis) -> Jobs:
    return Jobs(redis_client)


def take(jobs: Jobs, client: redis.Redis) -> CarriedJob | None:
    taken = CarriedQueue.dequeue_any([jobs.rq_queue("train")], None, client)
    if taken is None:
        return None
    job, _ = taken
    assert isinstance(job, CarriedJob)
    return job


def test_a_run_travels_as_json_under_its_own_id(jobs: Jobs, redis_client: redis.Redis) -> None:
    assert jobs.enqueue_run(UID, RUN, 2, timeout_s=99.5) == f"{RUN}-a2"
    stored = redis_client.hgetall(f"rq:job:{RUN}-a2")
    assert json.loads(zlib.decompress(stored[b"data"])) == ["train", None, [], {"uid": UID, "run_id": RUN}]
    job = take(jobs, redis_client)
    assert job is not None
    assert (job.function, job.arguments, job.timeout) == ("train", {"uid": UID, "run_id": RUN}, 100)


def test_it_is_known_whether_a_hand_over_still_waits(jobs: Jobs, redis_client: redis.Redis) -> None:
    jobs.enqueue_run(UID, RUN, 1, timeout_s=60)
    assert jobs.is_queued(RUN, 1)
    assert not jobs.is_queued(RUN, 2)
    take(jobs, redis_client)
    assert not jobs.is_queued(RUN, 1)


def test_a_run_that_a_person_waits_for_goes_to_the_front(jobs: Jobs) -> None:
    jobs.enqueue_run(UID, RUN, 1, timeout_s=60)
    jobs.enqueue_run("3.1795333883", "3-1795333883-1", 1, timeout_s=60, front=True)
    assert jobs.position("train", "3-1795333883-1-a1") == 0
    assert jobs.depth("train") == 2


def test_the_same_call_waits_only_once(jobs: Jobs) -> None:
    assert jobs.enqueue("sync", "sync", {"uid": UID}, key="2-1795333883", timeout_s=60)
    assert not jobs.enqueue("sync", "sync", {"uid": UID}, key="2-1795333883", timeout_s=60)
    assert jobs.enqueue("sync", "sync", {"uid": "3.1"}, key="3-1", timeout_s=60)
    assert jobs.depth("sync") == 2


def test_a_call_that_was_taken_may_wait_again(jobs: Jobs, redis_client: redis.Redis) -> None:
    jobs.enqueue("train", "sync", {"uid": UID}, key="2-1", timeout_s=60)
    take(jobs, redis_client)
    assert jobs.enqueue("train", "sync", {"uid": UID}, key="2-1", timeout_s=60)
    assert take(jobs, redis_client) is not None, "the first one's end must not take the second one's hash along"


def test_queues_of_another_installation_in_the_same_redis_are_left_alone(redis_client: redis.Redis, jobs: Jobs) -> None:
    Jobs(redis_client, prefix="other:").enqueue_run(UID, RUN, 1, timeout_s=60)
    redis_client.rpush("rq:queue:train", "somebody-elses")
    assert jobs.depth("train") == 0


def test_a_job_reads_json_whatever_serializer_it_is_told_to_use(redis_client: redis.Redis) -> None:
    assert CarriedJob("x", connection=redis_client, serializer="pickle").serializer is JSONSerializer
    assert CarriedQueue("x", connection=redis_client, serializer="pickle").serializer is JSONSerializer


class TestTidying:
    def test_a_job_that_was_taken_and_never_started_is_forgotten_after_a_minute(
        self, jobs: Jobs, redis_client: redis.Redis
    ) -> None:
        jobs.enqueue_run(UID, RUN, 1, timeout_s=60)
        take(jobs, redis_client)
        assert jobs.tidy("train", NOW) == 0
        assert jobs.tidy("train", NOW + 59) == 0
        assert jobs.tidy("train", NOW + 61) == 1
        assert set(redis_client.keys("*")) <= {b"rq:queues", b"mlb:taken:train"}
        jobs.tidy("train", NOW + 62)
        assert redis_client.exists("mlb:taken:train") == 0

    def test_an_execution_that_nobody_renewed_is_forgotten(self, jobs: Jobs, redis_client: redis.Redis) -> None:
        jobs.enqueue_run(UID, RUN, 1, timeout_s=60)
        redis_client.delete(jobs.queue_key("train"))
        redis_client.zadd("rq:wip:mlb-train", {f"{RUN}-a1:e1": NOW - 1, "another:e2": NOW + 60})
        redis_client.hset(f"rq:execution:{RUN}-a1:e1", "id", "e1")
        assert jobs.tidy("train", NOW) == 1
        assert redis_client.zrange("rq:wip:mlb-train", 0, -1) == [b"another:e2"]
        assert redis_client.keys("rq:job:*") == redis_client.keys("rq:execution:*") == []


def test_the_dead_do_not_count_as_workers(jobs: Jobs, redis_client: redis.Redis) -> None:
    redis_client.sadd("rq:workers:mlb-train", "rq:worker:alive", "rq:worker:killed")
    redis_client.hset("rq:worker:alive", "birth", "now")
    assert jobs.workers("train") == 1
    assert jobs.workers("sync") == 0


def test_a_redis_that_does_not_answer_is_unavailable(redis_socket: Path) -> None:
    with connect(redis_socket.with_name("nobody")) as client:
        for call in (
            lambda: Jobs(client).depth("train"),
            lambda: Jobs(client).enqueue_run(UID, RUN, 1, timeout_s=60),
            lambda: Jobs(client).tidy("train", NOW),
        ):
            with pytest.raises(Unavailable):
                call()


def test_naming_the_queues_does_not_load_rq() -> None:
    code = "import sys, ml_backend.jobs, ml_backend.runs; sys.exit('rq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
