"""What a worker does for one run: lease, snapshot, train, compare, publish, promote, and an end with a reason."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from ml_backend import left_out
from ml_backend.errors import (
    LeaseLost,
    NotTrainable,
    PromotionRefused,
    RunCancelled,
    RunEnded,
    RunTimedOut,
    Unavailable,
    VersionCorrupt,
    VersionNotFound,
    WorkerStopping,
)
from ml_backend.label_config import config_hash
from ml_backend.registry import Manifest, Metrics, Promotion, encode_ids
from ml_backend.state import Snapshot
from ml_backend.training.compare import Comparing
from ml_backend.training.snapshot import FileTrainingSet, Written, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ml_backend.backend import TrainingBackend
    from ml_backend.event_way import ProjectSettings
    from ml_backend.examples import Fetch, JsonObject
    from ml_backend.registry import Registry, Version
    from ml_backend.runs import Lease, Runs
    from ml_backend.state import State

log = logging.getLogger(__name__)

_LIBRARIES = ("label-studio-refit", "scikit-learn", "numpy", "torch", "transformers", "spacy", "ultralytics")
_PROGRESS_EVERY_S = 0.25


class Keeper(Protocol):
    """Keeps the lease of a run alive while it trains, and hears of its end."""

    @property
    def cancelled(self) -> bool:
        """Somebody cancelled the run."""

    @property
    def lost(self) -> bool:
        """The lease is lost: nothing may be published."""


@dataclass
class Run:
    """The `TrainingRun` that `train` gets."""

    directory: Path
    parent: Path | None
    params: Mapping[str, Any]
    seed: int
    keeper: Keeper
    report: Callable[[float, str], None]
    warm: bool = field(default=False, init=False)
    """Whether the model asked for its parent's files: what it knows then includes what the parent was trained on."""
    reported: dict[int, dict[str, list[JsonObject]]] = field(default_factory=dict, init=False, repr=False)
    """What `left_out` was told."""
    _reported: float = field(default=-1.0, repr=False)

    @property
    def previous(self) -> Path | None:
        """The verified files of the parent version."""
        self.warm = self.parent is not None
        return self.parent

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop."""
        return self.keeper.cancelled or self.keeper.lost

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far it is; at most a few times a second reach Redis. Raises `RunEnded` when the run must stop."""
        self.stop_if_asked()
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_EVERY_S or fraction >= 1:
            self._reported = now
            self.report(fraction, message)

    def left_out(self, control: str, task: int, result: Sequence[JsonObject]) -> None:
        """Remember what a model that was trained without this task answered about it."""
        self.reported.setdefault(task, {})[control] = list(result)

    def stop_if_asked(self) -> None:
        """Raises `LeaseLost` or `RunCancelled`."""
        if self.keeper.lost:
            raise LeaseLost("the lease of this run is lost")
        if self.keeper.cancelled:
            raise RunCancelled("cancelled")


class Trainer:
    """Carries out runs. One per worker process."""

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        state: State,
        runs: Runs,
        registry: Registry,
        settings: ProjectSettings,
        make_model: Callable[[str, str, Mapping[str, Any]], TrainingBackend],
        work: Path,
        *,
        keep: Callable[[Lease], AbstractContextManager[Keeper]],
        before: Callable[[str], None] | None = None,
        promoted: Callable[[str, Version], None] | None = None,
        media: Callable[[str, Path], Fetch] | None = None,
    ) -> None:
        """``work`` is where snapshots lie during a run; ``keep`` renews a lease; ``before`` brings the set up to date;
        ``promoted`` is told of a new serving version (predictions are refreshed from there); ``media`` fetches a
        project's files into a folder of the run."""
        self._state = state
        self._runs = runs
        self._registry = registry
        self._settings = settings
        self._make_model = make_model
        self._work = work
        self._keep = keep
        self._before = before
        self._promoted = promoted
        self._media = media

    def run(self, uid: str, run_id: str, worker: str) -> None:
        """Carry out a run, if it is its turn; it ends with a reason, whatever happens. Raises only `Unavailable`."""
        lease = self._runs.start(uid, run_id, worker, self._runs.time())
        if lease is None:
            log.info("project %s run %s: not its turn any more", uid, run_id)
            return
        log.info("project %s run %s: started (attempt %d): %s", uid, run_id, lease.attempt, lease.reason)
        # The token, since an attempt that lost its lease may still be there and tidies up when it notices.
        directory = self._work / f"{run_id}-{lease.token}"
        self._sweep(run_id)
        try:
            with self._keep(lease) as keeper:
                self._carry_out(lease, keeper, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _sweep(self, run_id: str) -> None:
        """Remove what killed attempts of this project left behind: whoever holds the lease is the only one at work."""
        for left in self._work.glob(f"{run_id.rpartition('-')[0]}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _carry_out(self, lease: Lease, keeper: Keeper, directory: Path) -> None:
        attempt = Attempt(lease, keeper, time.monotonic())
        try:
            self._train(attempt, directory)
        except NotTrainable as error:
            self._ended(attempt)
            self._finish(attempt, "failed", f"nothing to train yet: {error}", counts=False)
        except WorkerStopping:
            self._runs.hand_back(lease, "its worker was asked to stop", self._runs.time())
            log.warning("%s: handed back, its worker was asked to stop", attempt)
        except LeaseLost as error:
            log.warning("%s: %s; nothing is published", attempt, error)
        except RunCancelled:
            self._ended(attempt)
            self._finish(attempt, "cancelled", "cancelled")
        except RunTimedOut as error:
            self._ended(attempt)
            self._finish(attempt, "failed", str(error), error=str(error), trace=traceback.format_exc())
        except Unavailable:
            raise
        except RunEnded as error:
            self._finish(attempt, "cancelled", str(error))
        except Exception as error:
            log.exception("%s: failed", attempt)
            self._ended(attempt)
            said = f"{type(error).__name__}: {error}"[:500]
            self._finish(attempt, "failed", said, error=said, trace=traceback.format_exc())

    def _train(self, attempt: Attempt, directory: Path) -> None:
        lease = attempt.lease
        uid = lease.uid
        if (published := self._published_before(lease)) is not None:
            self._resume(attempt, published)
            return
        if self._before is not None:
            with self._phase(attempt, "sync", 0.0):
                self._before(uid)
        with self._phase(attempt, "snapshot", 0.02):
            project = self._state.load(uid)
            if project is None:
                raise NotTrainable("the project is not known any more")
            snapshot = attempt.snapshot = self._state.snapshot(uid)
            refit, params = self._settings.read(snapshot.extra_params)
            files = directory / "files"
            files.mkdir(parents=True, mode=0o700)
            written = write(self._state.stored(uid, bulk_accepted=refit.bulk_accepted), directory / "examples.jsonl")
            if not written.lines:
                raise NotTrainable(_nothing(written))
        fetch = self._media(uid, directory / "media") if self._media is not None else None

        def make_model() -> TrainingBackend:
            made = self._make_model(uid, snapshot.label_config, params)
            return made if fetch is None else made.fetching(fetch)

        model = make_model()
        if (why := model.check(snapshot.label_config)) is not None:
            raise NotTrainable(why)
        parent, previous, damaged = self._parent(uid)
        comparing = Comparing(written, parent, make_model, damaged=damaged, fetch=fetch)
        run = Run(
            directory=files,
            parent=previous,
            params=params,
            seed=int.from_bytes(hashlib.sha256(lease.run_id.encode()).digest()[:4], "big"),
            keeper=attempt.keeper,
            report=lambda fraction, message: self._progress(attempt, "train", 0.05 + 0.75 * fraction, message),
        )
        data = FileTrainingSet(
            written,
            comparing.trained,
            label_config=snapshot.label_config,
            controls=model.controls,
            changed=snapshot.changed if parent is not None else None,
            fetch=fetch,
        )
        with self._phase(attempt, "train", 0.05):
            own = model.train(data, run) or {}
            run.stop_if_asked()
        with self._phase(attempt, "compare", 0.8):
            answered = comparing.answered(run.reported, warm=run.warm)
            outcome = comparing.outcome(files, previous, refit.promote, answered)
            if refit.serve is not None:
                outcome = replace(outcome, promote=False, reason=f"version {refit.serve} is pinned; {outcome.reason}")
            run.stop_if_asked()
        manifest = Manifest(
            trained_on=encode_ids(comparing.learnt_from(warm=run.warm)),
            metrics=Metrics(
                candidate=outcome.candidate,
                incumbent=outcome.incumbent,
                compared_on=outcome.compared_on,
                information={name: float(value) for name, value in own.items()},
            ),
            promotion=Promotion(promoted=outcome.promote, reason=outcome.reason),
            counters=project.counters,
            sizes={
                "tasks": len(comparing.trained),
                "held_out": len(written.lines) - len(comparing.trained),
                "annotations": written.annotations,
                "bulk_accepted_left_out": written.left_out,
            },
            label_config_hash=config_hash(snapshot.label_config),
            label_config=snapshot.label_config,
            trigger=lease.trigger,
            reason=lease.reason,
            run=lease.run_id,
            seq=snapshot.seq,
            durations=dict(attempt.durations),
            libraries=libraries(),
            parent=parent.number if parent is not None else None,
            seed=run.seed,
            params=params,
            left_out=left_out.encode(answered),
        )
        self._publish(attempt, files, manifest, written)

    def _parent(self, uid: str) -> tuple[Version | None, Path | None, str | None]:
        """(the version to start from and compare with, its verified folder, why there is none although one serves)."""
        try:
            parent = self._registry.serving(uid)
            return parent, None if parent is None else self._registry.fetch(uid, parent.number), None
        except (VersionCorrupt, VersionNotFound) as error:
            # A damaged version must not keep the next from being made: that one heals it.
            log.warning("project %s: what serves is damaged, the next version does without: %s", uid, error)
            return None, None, str(error)

    def _publish(self, attempt: Attempt, files: Path, manifest: Manifest, written: Written) -> None:
        lease, uid = attempt.lease, attempt.lease.uid
        with self._phase(attempt, "publish", 0.9):
            if self._runs.look(lease).cancelled:  # the keeper hears of it a moment later
                raise RunCancelled("cancelled")
            # A trainer that lost its lease between the last look and the last write may have come to its end meanwhile.
            published = self._published_before(lease)
            if published is not None:
                self._resume(attempt, published)
                return
            number = self._registry.new_number(uid)
            version = self._registry.publish(
                uid, number, files, manifest, lambda: self._runs.check(lease), now=self._runs.time()
            )
        attempt.trained_size = written.annotations
        self._conclude(attempt, version)

    def _conclude(self, attempt: Attempt, version: Version, *, failure: str = "", trace: str = "") -> None:
        """What follows once the version exists; a run that dies in here is resumed from here.

        With ``failure`` the run counts as failed for that reason, although there is a version.
        """
        lease, uid = attempt.lease, attempt.lease.uid
        promoted, why = version.manifest.promotion.promoted, version.manifest.promotion.reason
        attempt.version = version.name
        if promoted:
            with self._phase(attempt, "promote", 0.97):
                try:
                    version = self._registry.promote(
                        uid,
                        version.number,
                        token=lease.token,
                        instead_of=version.manifest.parent,
                        now=self._runs.time(),
                    )
                except PromotionRefused as error:
                    promoted, why = False, str(error)
        self._ended(attempt)
        kind = "promoted" if promoted else "kept aside"
        reason = f"{version.name} {kind}: {why}"
        self._state.decided(uid, kind, reason, self._runs.time())
        if failure:
            self._finish(attempt, "failed", failure, error=failure, trace=trace, counts=False)
        else:
            self._finish(attempt, "succeeded", reason)
        if promoted and self._promoted is not None:
            self._promoted(uid, version)

    def _published_before(self, lease: Lease) -> Version | None:
        """The version that an earlier attempt of this run published before it died: no run publishes two."""
        run = self._runs.get(lease.run_id) if lease.attempt > 1 else None
        if run is None:
            return None
        for version in self._registry.versions(lease.uid):
            made = version.manifest
            # A Redis that lost everything counts its runs from 1 again.
            if made.run == lease.run_id and made.seq is not None and made.created_at >= run.requested_at:
                return version
        return None

    def _resume(self, attempt: Attempt, version: Version) -> None:
        made = version.manifest
        log.info("%s: %s was published by an attempt before, going on from there", attempt, version.name)
        attempt.snapshot = Snapshot(attempt.lease.uid, made.seq or 0, made.label_config or "", "", frozenset())
        attempt.trained_size = made.sizes.get("annotations", 0)
        attempt.durations = dict(made.durations)
        attempt.began -= sum(made.durations.values())
        self._ask_again(attempt.lease, attempt.snapshot)
        self._conclude(attempt, version)

    def _ask_again(self, lease: Lease, seen: Snapshot) -> None:
        """A click that joined after the version was made asked for more than it holds; the policy sees to the rest."""
        if lease.click and self._state.snapshot(lease.uid).seq > seen.seq:
            now = self._runs.time()
            self._runs.request(lease.uid, trigger=lease.trigger, reason=lease.reason, due=now, click=True, now=now)

    # --- reporting ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _phase(self, attempt: Attempt, name: str, fraction: float) -> Iterator[None]:
        began = time.monotonic()
        if attempt.keeper.lost:
            raise LeaseLost("the lease of this run is lost")
        self._progress(attempt, name, fraction, "")
        yield
        attempt.durations[name] = round(time.monotonic() - began, 3)
        log.info("%s: %s took %.2f s", attempt, name, attempt.durations[name])

    def _progress(self, attempt: Attempt, phase: str, fraction: float, message: str) -> None:
        try:
            held = self._runs.progress(attempt.lease, phase, fraction, message, self._runs.time())
        except Unavailable as error:
            # Whether a Redis that is away ends the run is for the keeper to decide: it may be back in a second.
            log.warning("%s: its progress cannot be reported: %s", attempt, error)
            return
        if not held:
            raise LeaseLost("the lease of this run is lost")

    def _ended(self, attempt: Attempt) -> None:
        """Tell the policy what this attempt saw, before the run ends and the clock decides again."""
        if attempt.snapshot is None:
            return
        self._state.attempted(
            attempt.lease.uid,
            attempt.snapshot,
            self._runs.time(),
            seconds=time.monotonic() - attempt.began,
            trained_size=attempt.trained_size,
            config_hash=config_hash(attempt.snapshot.label_config),
        )

    def _finish(
        self,
        attempt: Attempt,
        outcome: Any,  # noqa: ANN401 - one of the words of Runs.finish
        reason: str,
        *,
        error: str = "",
        trace: str = "",
        counts: bool = True,
    ) -> None:
        held = self._runs.finish(
            attempt.lease,
            outcome,
            reason=reason,
            error=error,
            traceback=trace,
            details={"durations": attempt.durations, "version": attempt.version, "annotations": attempt.trained_size},
            counts=counts,
            now=self._runs.time(),
        )
        if not held:
            log.warning("%s: its lease is lost, its end is not written: %s: %s", attempt, outcome, reason)
            return
        log.info("%s: %s: %s", attempt, outcome, reason)
        if outcome != "succeeded":
            self._state.decided(attempt.lease.uid, outcome, reason, self._runs.time())


@dataclass
class Attempt:
    """One attempt of a run, as far as it has come."""

    lease: Lease
    keeper: Keeper
    began: float
    snapshot: Snapshot | None = None
    trained_size: int | None = None
    version: str = ""
    durations: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """How a line of the log begins."""
        version = f" version {self.version}" if self.version else ""
        return f"project {self.lease.uid} run {self.lease.run_id}{version}"


def _nothing(written: Written) -> str:
    if written.left_out:
        return f"all {written.left_out} annotations are bulk-accepted predictions that nobody changed"
    return "there is no annotation to train on"


def libraries() -> dict[str, str]:
    """Versions of the libraries that a model is made with, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
