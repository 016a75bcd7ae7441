"""State, runs, jobs, event way and clock on a real Valkey, at the pace of a modelled Label Studio's own time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_backend.clock import Clock
from ml_backend.event_way import EventWay, ProjectSettings
from ml_backend.jobs import Jobs
from ml_backend.runs import Runs
from ml_backend.settings import Refit, RetrainSettings
from ml_backend.state import State
from ml_backend.state.due import DueList
from tests.modelled import ModelLabelStudio

if TYPE_CHECKING:
    import redis

    from ml_backend.clock import Considering
    from ml_backend.runs.records import Lease
    from ml_backend.state import ProjectState
    from tests.modelled import Payload

TICK_S = 0.2


class Pace:
    """One project; nothing happens unless a test says so. ``now`` is the same for Label Studio, web and clock."""

    def __init__(
        self,
        client: redis.Redis,
        studio: ModelLabelStudio | None = None,
        *,
        retrain: RetrainSettings | None = None,
        others: tuple[Considering, ...] = (),
        **clock: Any,
    ) -> None:
        self.redis = client
        self.studio = studio or ModelLabelStudio()
        if not self.studio.tasks:
            self.studio.import_tasks([[]] * 5)
        self.state = State(client)
        self.runs = Runs(client)
        self.jobs = Jobs(client)
        self.settings = ProjectSettings(Refit(retrain=retrain or RetrainSettings()))
        self.way = EventWay(self.state, self.runs, self.settings, lambda: self.now)
        self.clock = Clock(
            self.state,
            DueList(client),
            self.runs,
            self.jobs,
            self.settings,
            run_timeout=600,
            others=others,
            **clock,
        )

    @property
    def now(self) -> float:
        return self.studio.now_us / 1e6

    @property
    def uid(self) -> str:
        return self.studio.uid

    @property
    def project(self) -> ProjectState:
        found = self.state.load(self.uid)
        assert found is not None
        return found

    @property
    def waiting(self) -> str | None:
        run = self.runs.waiting(self.uid)
        return run.id if run is not None else None

    @property
    def queued(self) -> int:
        """Jobs in the training workers' queue."""
        return self.jobs.depth("train")

    @property
    def reasons(self) -> list[str]:
        """What people read, newest first."""
        return [f"{one['kind']}: {one['reason']}" for one in self.state.decisions(self.uid)]

    def hear(self, payloads: list[Payload]) -> dict[str, Any]:
        """Deliver events; the answer to the last."""
        answer: dict[str, Any] = {}
        for payload in payloads:
            answer = self.way.handle(payload["action"], payload)
        return answer

    def submit(self, count: int = 1, *, every_s: float = 0.0, task: int = 1, label: str = "Positive") -> dict[str, Any]:
        """An annotator submits, ``every_s`` apart; the last answer."""
        answer: dict[str, Any] = {}
        for _ in range(count):
            answer = self.hear(self.studio.create(task, label))
            if every_s:
                self.wait(every_s)
        return answer

    def wait(self, seconds: float) -> None:
        """Time passes, and the clock ticks."""
        left = round(seconds * 1e6)
        while left > 0:
            step = min(round(TICK_S * 1e6), left)
            left -= step
            self.studio.now_us += step
            self.clock.tick(self.now)

    def start(self, worker: str = "w1") -> Lease:
        """A worker takes the job that was handed over, and starts the run."""
        run = self.waiting
        assert run is not None, "no run waits"
        assert self.queued == 1, "it was not handed over"
        self.redis.delete(self.jobs.queue_key("train"))
        lease = self.runs.start(self.uid, run, worker, self.now)
        assert lease is not None
        return lease

    def succeed(self, lease: Lease, *, seconds: float = 1.0) -> None:
        """The run trains on what there is, and ends well after so many seconds."""
        snapshot = self.state.snapshot(self.uid)
        project = self.project
        self.pass_running(lease, seconds)
        self.state.attempted(
            self.uid,
            snapshot,
            self.now,
            seconds=seconds,
            trained_size=project.training.trainable,
            config_hash=project.config_hash,
        )
        assert self.runs.finish(lease, "succeeded", reason="fine", now=self.now)

    def fail(self, lease: Lease, *, seconds: float = 0.0) -> None:
        """The run's model raises."""
        snapshot = self.state.snapshot(self.uid)
        self.pass_running(lease, seconds)
        self.state.attempted(self.uid, snapshot, self.now, seconds=seconds, config_hash=self.project.config_hash)
        assert self.runs.finish(lease, "failed", reason="no such layer", error="no such layer", now=self.now)

    def pass_running(self, lease: Lease, seconds: float) -> None:
        """Time passes while the run trains and renews its lease."""
        left = seconds
        while left > 1e-6:
            step = min(5.0, left)
            left -= step
            self.wait(step)
            assert self.runs.renew(lease, self.now).ok
