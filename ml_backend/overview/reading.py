"""Reads the views: one place that knows which part holds what."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ml_backend import policy
from ml_backend.errors import BadInput, ProjectUnknown, RegistryError
from ml_backend.jobs import QUEUES
from ml_backend.overview import views
from ml_backend.uids import require_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ml_backend.event_way import ProjectSettings
    from ml_backend.jobs import Jobs
    from ml_backend.predictions.presence import LoadError
    from ml_backend.refresh import Records
    from ml_backend.registry import Registry, Version
    from ml_backend.runs import Run, Runs, Standing
    from ml_backend.state import ProjectState, State
    from ml_backend.sync import Access, Standings
    from ml_backend.sync.standing import Standing as SyncStanding

_DECISIONS = 10
_FRESH_S = 15.0
_REMEMBERED = 1024


class Serving(Protocol):
    """What is known of the web processes."""

    def served(self, uid: str) -> str | None:
        """The version that every live web process serves."""

    def errors(self, uid: str) -> list[LoadError]:
        """Versions that one of them could not load."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything that one page shows of a project; ``runs`` are over, all lists are newest first."""

    project: views.Project
    versions: list[views.Version]
    runs: list[views.Run]
    decisions: list[views.Decision]


@dataclass(frozen=True, slots=True)
class _Remembered:
    standing: tuple[object, ...]
    until: float
    versions: list[views.Version]


class Overview:
    """Every view of every project. Safe to share between threads.

    Methods raise `Unavailable` when Redis is away, `ProjectUnknown` for a project that is not known here, and
    `StoreUnavailable` where versions are read.
    """

    def __init__(
        self,
        state: State,
        runs: Runs,
        registry: Registry,
        settings: ProjectSettings,
        serving: Serving,
        standings: Standings,
        records: Records,
        access: Access,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._runs = runs
        self._registry = registry
        self._settings = settings
        self._serving = serving
        self._standings = standings
        self._records = records
        self._access = access
        self._clock = clock
        self._versions: dict[str, _Remembered] = {}
        self._lock = threading.Lock()

    def projects(self) -> list[views.Project]:
        """Every known project: connected ones first, by id."""
        known = ((uid, self._state.load(uid)) for uid in self._state.uids())
        found = [self._project(state, self._runs.standing(uid)) for uid, state in known if state is not None]
        return sorted(found, key=lambda one: (not one.connected, one.id, one.uid))

    def project(self, uid: str) -> views.Project:
        """One project."""
        return self._project(self.known(uid), self._runs.standing(uid))

    def whole(self, uid: str, *, runs: int, decisions: int) -> Whole:
        """A project with its versions, up to ``runs`` runs that are over and up to ``decisions`` decisions."""
        state, standing = self.known(uid), self._runs.standing(uid)
        return Whole(
            self._project(state, standing),
            self._versions_of(uid, standing),
            [run_view(one) for one in self._runs.history(uid, runs)],
            self._decisions(uid, decisions),
        )

    def known(self, uid: str) -> ProjectState:
        """Its state. Raises `BadInput` for what is no uid, `ProjectUnknown` for one that is not known here."""
        state = self._state.load(require_uid(uid))
        if state is None:
            raise ProjectUnknown("project", f"project {uid} is not known here")
        return state

    def runs(self, uid: str, limit: int = 50) -> list[views.Run]:
        """What waits, what trains, and up to ``limit`` runs that are over, newest first."""
        self.known(uid)
        standing = self._runs.standing(uid)
        live = [self._live(one) for one in (standing.waiting, standing.running) if one is not None]
        return [*live, *(run_view(one) for one in self._runs.history(uid, limit))]

    def run(self, run_id: str) -> views.Run:
        """One run. Raises `BadInput` with status 404 for one that is not known, or no longer."""
        found = self._runs.get(run_id)
        if found is None:
            raise BadInput("run", "is not known, or no longer", status=404)
        return self._live(found)

    def versions(self, uid: str) -> list[views.Version]:
        """Its versions, newest first. Read from the store when a run ended or what serves moved, and now and then."""
        self.known(uid)
        return self._versions_of(uid, self._runs.standing(uid))

    def _versions_of(self, uid: str, standing: Standing) -> list[views.Version]:
        alias = self._registry.alias(uid)
        now = time.monotonic()
        key = (standing.last_id, standing.last_ended_at, alias)
        held = self._versions.get(uid)
        if held is not None and held.standing == key and now < held.until:
            return held.versions
        found = [version_view(one) for one in self._registry.versions(uid)]
        with self._lock:
            if len(self._versions) >= _REMEMBERED:
                self._versions.clear()
            self._versions[uid] = _Remembered(key, now + _FRESH_S, found)
        return found

    def decisions(self, uid: str, limit: int = 50) -> list[views.Decision]:
        """Its decisions, newest first."""
        self.known(uid)
        return self._decisions(uid, limit)

    def sync(self, uid: str) -> views.Sync:
        """How its sync stands."""
        return self._sync(self.known(uid), self._standings.load(uid))

    def refresh(self, uid: str) -> views.Refresh:
        """How its refresh of predictions stands."""
        self.known(uid)
        return self._refresh(uid)

    def _project(self, state: ProjectState, standing: Standing) -> views.Project:
        uid, settings = state.uid, self._settings.of(state)
        have, need = policy.progress(state.training, settings.retrain)
        decision = policy.decide(state.training, settings.retrain, self._clock())
        return views.Project(
            uid=uid,
            id=state.project_id,
            title=state.title,
            connected=state.deleted_at is None,
            progress=views.Progress(
                have=have, need=need, fraction=min(1.0, have / need) if need else 1.0, first=not state.training.trained
            ),
            next_training=_next(decision),
            counters=views.Counters(**state.counters),
            training_set=views.TrainingSet(
                trainable=state.training.trainable,
                changed=state.training.changed,
                trained=state.training.trained_size,
                left_out=state.bulk_accepted,
            ),
            drift=views.Drift(
                missing=state.missing,
                differences={name: value for name, value in state.drift.items() if value},
                since=state.drift_since,
            ),
            serving=self._served(uid, pinned=settings.serve is not None),
            load_errors=[
                views.LoadError(process=one.process, version=one.version, error=one.error, at=one.at)
                for one in self._serving.errors(uid)
            ],
            running=self._live(standing.running) if standing.running is not None else None,
            waiting=run_view(standing.waiting) if standing.waiting is not None else None,
            paused=standing.paused or None,
            outdated=state.training.outdated,
            unsupported=state.meta.get("unsupported") or None,
            last_annotation_at=state.last_annotation_at,
            sync=self._sync(state, self._standings.load(uid)),
            refresh=self._refresh(uid),
            decisions=self._decisions(uid, _DECISIONS),
        )

    def _served(self, uid: str, *, pinned: bool) -> views.Serving | None:
        try:
            alias = self._registry.alias(uid)
        except RegistryError:
            return None  # what serves is known by nobody until the store is back
        if alias is None:
            return None
        return views.Serving(
            number=alias.number,
            name=alias.name,
            since=alias.moved_at,
            ready=self._serving.served(uid) == alias.name,
            previous=alias.before[-1] if alias.before else None,
            pinned=pinned,
        )

    def _live(self, run: Run) -> views.Run:
        return run_view(run, [views.Message(**one) for one in self._runs.messages(run.id)])

    def _decisions(self, uid: str, limit: int) -> list[views.Decision]:
        return [views.Decision(**one) for one in self._state.decisions(uid, limit)]

    def _sync(self, state: ProjectState, standing: SyncStanding) -> views.Sync:
        return views.Sync(
            problem=self._access.problem,
            running=standing.running,
            waiting=standing.forced and not standing.running,
            kind=standing.kind,
            phase=standing.phase,
            done=standing.done,
            total=standing.total,
            message=standing.message,
            error=standing.error,
            outcome=standing.outcome,
            ended=state.synced_at,
            next_try=standing.next_try,
        )

    def _refresh(self, uid: str) -> views.Refresh:
        found = self._records.read(uid)
        return views.Refresh(
            status=found.status,
            version=found.version,
            phase=found.phase,
            reason=found.reason,
            done=found.done,
            total=found.total,
            began=found.began,
            ended=found.ended,
            retry_at=found.retry_at,
            cancelling=found.cancelling,
        )


def run_view(run: Run, messages: Sequence[views.Message] = ()) -> views.Run:
    """A run's record, for people."""
    return views.Run(
        id=run.id,
        number=run.number,
        project=run.uid,
        status=run.status,
        trigger=run.trigger,
        click=run.click,
        reason=run.reason,
        requested_at=run.requested_at,
        due_at=run.due_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        seconds=run.duration_s,
        phase=run.phase,
        fraction=min(1.0, max(0.0, run.fraction)),
        message=run.message,
        messages=list(messages),
        cancelling=run.cancelling,
        joined=run.joined,
        attempts=run.attempts,
        losses=run.losses,
        worker=run.worker,
        ending=run.ending,
        error=run.error,
    )


def version_view(version: Version) -> views.Version:
    """A version's manifest, for people."""
    manifest = version.manifest
    metrics = manifest.metrics
    return views.Version(
        number=version.number,
        name=version.name,
        status=version.status,
        created_at=manifest.created_at,
        score=_score(version),
        scores=metrics.candidate,
        scores_before=metrics.incumbent,
        information=metrics.information,
        compared_on=metrics.compared_on,
        promoted=manifest.promotion.promoted,
        verdict=manifest.promotion.reason,
        tasks=manifest.sizes.get("tasks", 0),
        annotations=manifest.sizes.get("annotations", 0),
        held_out=manifest.sizes.get("held_out", 0),
        trigger=manifest.trigger,
        reason=manifest.reason,
        run=manifest.run,
        parent=manifest.parent,
        seconds=sum(manifest.durations.values()),
        durations=manifest.durations,
        bytes=sum(one.size for one in manifest.files.values()),
    )


def system_view(version: str, model: str, label_studio: str | None, jobs: Jobs) -> views.System:
    """The backend itself, and what its queues hold."""
    return views.System(
        version=version,
        model=model,
        label_studio=label_studio,
        queues={one: views.Queue(waiting=jobs.depth(one), workers=jobs.workers(one)) for one in QUEUES},
    )


def _next(decision: policy.Decision) -> views.NextTraining:
    match decision:
        case policy.Train(reason):
            return views.NextTraining(kind="train", reason=reason, until=None)
        case policy.Wait(reason, until):
            return views.NextTraining(kind="wait", reason=reason, until=until)
        case policy.Ignore(reason):
            return views.NextTraining(kind="nothing", reason=reason, until=None)


def _score(version: Version) -> views.Score | None:
    """Scorers put the score that matters first."""
    metrics = version.manifest.metrics
    for scores, informative in ((metrics.candidate, False), (metrics.information, True)):
        for name, value in scores.items():
            return views.Score(
                name=name, value=value, compared_on=0 if informative else metrics.compared_on, informative=informative
            )
    return None
