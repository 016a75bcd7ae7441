"""What a worker does for one run: lease, snapshot, train, compare, publish, promote, and an end with a reason."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import traceback
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

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
from ml_backend.training.attempt import Attempt, Keeper, Run
from ml_backend.training.compare import Comparing
from ml_backend.training.snapshot import FileTrainingSet, Written, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ml_backend.backend import TrainingBackend
    from ml_backend.event_way import ProjectSettings
    from ml_backend.examples import Fetch
    from ml_backend.registry import Registry, Version
    from ml_backend.runs import Lease, Runs
    from ml_backend.state import State

log = logging.getLogger(__name__)

_LIBRARIES = ("label-studio-refit", "scikit-learn", "numpy", "torch", "transformers", "spacy", "ultralytics")


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
        try:
            with self._keep(lease) as keeper:
                # Not before: much on a slow disk may take longer than a lease.
                self._sweep(run_id)
                self._carry_out(lease, keeper, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _sweep(self, run_id: str) -> None:
        """Remove what killed attempts of this project left behind: whoever holds the lease is the only one at work."""
        for left in self._work.glob(f"{run_id.rpartition('-')[0]}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _carry_out(self, lease: Lease, keeper: Keeper, directory: Path) -> None:
        attempt = Attempt(lease, keeper, self._runs, self._state)
        try:
            self._train_in_time(attempt, directory)
        except NotTrainable as error:
            attempt.tell_policy()
            attempt.finish("failed", f"nothing to train yet: {error}", counts=False)
        except WorkerStopping:
            # Its end may be written already, and what follows a promotion was interrupted: the clock sees to that.
            if self._runs.hand_back(lease, "its worker was asked to stop", self._runs.time()) is not None:
                log.warning("%s: handed back, its worker was asked to stop", attempt)
        except LeaseLost as error:
            log.warning("%s: %s; nothing is published", attempt, error)
        except RunCancelled:
            attempt.tell_policy()
            attempt.finish("cancelled", "cancelled")
        except RunTimedOut as error:
            attempt.tell_policy()
            attempt.finish("failed", str(error), error=str(error), trace=traceback.format_exc())
        except Unavailable:
            raise
        except RunEnded as error:
            attempt.finish("cancelled", str(error))
        except Exception as error:
            log.exception("%s: failed", attempt)
            attempt.tell_policy()
            said = f"{type(error).__name__}: {error}"[:500]
            attempt.finish("failed", said, error=said, trace=traceback.format_exc())

    def _train_in_time(self, attempt: Attempt, directory: Path) -> None:
        """Train; a time limit that is reached when the version is there already comes too late to fail the run."""
        try:
            self._train(attempt, directory)
        except RunTimedOut:
            if self._runs.released(attempt.lease):
                return  # the clock sees to what would have followed
            if (made := self._version_of(attempt.lease)) is None:
                raise
            log.warning("%s: its time is over, and %s is published: only its end is left", attempt, made.name)
            attempt.trained_size = made.manifest.sizes.get("annotations", 0)
            self._conclude(attempt, made)

    def _train(self, attempt: Attempt, directory: Path) -> None:
        lease = attempt.lease
        uid = lease.uid
        if (published := self._published_before(lease)) is not None:
            self._resume(attempt, published)
            return
        if self._before is not None:
            with attempt.phase("sync", 0.0):
                self._before(uid)
        with attempt.phase("snapshot", 0.02):
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
            report=lambda fraction, message: attempt.progress("train", 0.05 + 0.75 * fraction, message),
        )
        data = FileTrainingSet(
            written,
            comparing.trained,
            label_config=snapshot.label_config,
            controls=model.controls,
            changed=snapshot.changed if parent is not None else None,
            fetch=fetch,
        )
        with attempt.phase("train", 0.05):
            own = model.train(data, run) or {}
            run.stop_if_asked()
        with attempt.phase("compare", 0.8):
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
        with attempt.phase("publish", 0.9):
            # A trainer that lost its lease between the last look and the last write may have come to its end meanwhile.
            published = self._published_before(lease)
            if published is not None:
                self._resume(attempt, published)
                return
            number = self._registry.new_number(uid)
            version = self._registry.publish(uid, number, files, manifest, attempt.may_publish, now=self._runs.time())
            attempt.version = version.name
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
            with attempt.phase("promote", 0.97):
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
        attempt.tell_policy()
        kind = "promoted" if promoted else "kept aside"
        reason = f"{version.name} {kind}: {why}"
        self._state.decided(uid, kind, reason, self._runs.time())
        if failure:
            attempt.finish("failed", failure, error=failure, trace=trace, counts=False)
        else:
            attempt.finish("succeeded", reason)
        if promoted and self._promoted is not None:
            self._promoted(uid, version)

    def _published_before(self, lease: Lease) -> Version | None:
        """The version that an earlier attempt of this run published before it died: no run publishes two."""
        return self._version_of(lease) if lease.attempt > 1 else None

    def _version_of(self, lease: Lease) -> Version | None:
        """The version that this run has published."""
        if (run := self._runs.get(lease.run_id)) is None:
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
