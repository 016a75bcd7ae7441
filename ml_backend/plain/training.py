"""A run of a plain class: its `fit` sees what waits, in order, and what it left on disk becomes the next version."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.errors import LeaseLost, ModelLoadFailed, NotTrainable
from ml_backend.event_way import CLICK
from ml_backend.label_config import config_hash
from ml_backend.plain.model import NOTE, PlainBackend, hello
from ml_backend.plain.process import PlainDied, PlainFailed, PlainProcess
from ml_backend.registry import Manifest, Promotion
from ml_backend.training.attempt import Attempt, Run
from ml_backend.training.run import Trainer, libraries
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ml_backend.plain_state import PlainState, WaitingEvent
    from ml_backend.state import ProjectState, Snapshot

log = logging.getLogger(__name__)

_TRIES = 3
_LONGEST_NAME = 80


@dataclass
class _Fits:
    """What came of the events of one run."""

    done: int = 0
    left: bool = False
    errors: list[str] = field(default_factory=list)
    trace: str = ""
    version: str = ""

    def failed(self, what: str, error: Exception) -> None:
        log.warning("fit(%s): %s", what, error)
        self.errors.append(f"{what}: {error}"[:500])
        self.trace = self.trace or (error.trace if isinstance(error, PlainFailed) else "")

    def reason(self) -> str:
        if len(self.errors) == 1 and not self.done:
            return f"fit({self.errors[0]})"
        return f"{len(self.errors)} of {self.done + len(self.errors)} calls of fit failed; first: fit({self.errors[0]})"


class PlainTrainer(Trainer):
    """Carries out runs of plain classes, with the same lease, the same ends and the same versions as all others."""

    def use(self, kept: PlainState, folder: Path, keep: int) -> PlainTrainer:
        """``folder`` is where classes of the first generation get their ``workdir``; ``keep`` is how many stay."""
        self._kept = kept
        self._folder = folder
        self._keep_folders = keep
        return self

    def _train(self, attempt: Attempt, directory: Path) -> None:
        lease = attempt.lease
        uid = lease.uid
        if (published := self._published_before(lease)) is not None:
            self._resume(attempt, published)
            return
        project = self._state.load(uid)
        if project is None:
            raise NotTrainable("the project is not known any more")
        snapshot = attempt.snapshot = self._state.snapshot(uid)
        refit, params = self._settings.read(snapshot.extra_params)
        model = self._make_model(uid, snapshot.label_config, params)
        assert isinstance(model, PlainBackend)  # noqa: S101 - for the types; the composition root pairs them
        run = Run(directory, None, params, 0, attempt.keeper, lambda *_: None)
        click = lease.click or lease.trigger == CLICK
        asked = click or (refit.fit == "policy" and lease.trigger not in {"setup", "events"})
        first = self._registry.alias(uid) is None
        fits = _Fits(left=self._kept.left(uid))

        def told() -> dict[str, Any]:
            return hello(model, {"uid": uid, "params": params, "output": self._kept.output(uid)})

        with _Helper(told, run) as helper:
            with attempt.phase("train", 0.05):
                while (event := self._kept.first(uid)) is not None:
                    attempt.progress("train", 0.1, f"{event.action}, {self._kept.waiting(uid)} wait")
                    self._see(attempt, fits, helper, event, snapshot)
                if asked:
                    attempt.progress("train", 0.7, CLICK)
                    self._start_training(attempt, fits, helper, snapshot)
            news = fits.left or (first and not fits.errors)
            if news:
                fits.version = fits.version or helper.get().who["version"]
        attempt.trained_size = project.training.trainable
        if lease.trigger == "setup" and not fits.done:
            attempt.snapshot = None  # nothing was learned: the policy goes on as if there had been no run
        if not news:
            self._nothing_new(attempt, fits, refit.fit)
            return
        self._make_version(attempt, fits, directory, project, snapshot, params, first=first and not fits.left)

    # --- fit ----------------------------------------------------------------------------------------------------------

    def _see(self, attempt: Attempt, fits: _Fits, helper: _Helper, event: WaitingEvent, snapshot: Snapshot) -> None:
        """Let `fit` see the first event of the line; it leaves the line when it has, and not before."""
        uid = attempt.lease.uid
        made: dict[str, Any] = {}
        try:
            made = self._fit(fits, helper, event.action, event.data, snapshot, f"{event.number}")
        except PlainDied as error:
            # Killed from outside perhaps: the event is seen again. One that ends every process must not stop the line.
            if self._kept.tried(uid) < _TRIES:
                log.warning("%s: fit(%s): %s; it sees the event again", attempt, event.action, error)
                return
            fits.failed(event.action, error)
        except PlainFailed as error:
            fits.failed(event.action, error)
        if not self._kept.seen(event, attempt.lease, made.get("output"), left=made.get("left", False)):
            raise LeaseLost("the lease of this run is lost")

    def _start_training(self, attempt: Attempt, fits: _Fits, helper: _Helper, snapshot: Snapshot) -> None:
        data = self._newest(attempt.lease.uid, snapshot)
        try:
            made = self._fit(fits, helper, CLICK, data, snapshot, attempt.lease.run_id)
        except (PlainDied, PlainFailed) as error:
            fits.failed(CLICK, error)
        else:
            if not self._kept.seen(None, attempt.lease, made["output"], left=made["left"]):
                raise LeaseLost("the lease of this run is lost")

    def _fit(
        self, fits: _Fits, helper: _Helper, action: str, data: dict[str, Any], snapshot: Snapshot, job: str
    ) -> dict[str, Any]:
        project = data.get("project")
        named = project.get("label_config") if isinstance(project, dict) else None
        with self._workdir(snapshot.uid, job) as workdir:
            made: dict[str, Any] = helper.get().fit(
                {
                    "event": action,
                    "data": data,
                    "label_config": named or snapshot.label_config,
                    "job_id": job,
                    "workdir": str(workdir),
                },
                helper.look,
            )
        fits.done += 1
        fits.left = fits.left or made["left"]
        fits.version = made["version"]
        return made

    @contextlib.contextmanager
    def _workdir(self, uid: str, job: str) -> Iterator[Path]:
        """A folder for one call of `fit`; it stays when something was written into it, as long as others do."""
        above = self._folder / uid
        folder = above / job
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
        named = orjson.dumps(self._kept.output(uid)).decode()
        others = sorted((one for one in above.iterdir() if one != folder), key=lambda one: one.stat().st_mtime)
        for old in others[: -self._keep_folders]:
            if str(old) not in named:
                shutil.rmtree(old, ignore_errors=True)

    def _newest(self, uid: str, snapshot: Snapshot) -> dict[str, Any]:
        """The project with its newest annotation and task: what `fit` gets on a click; Label Studio sends less."""
        found = self._kept.newest(uid)
        number = id_of(uid)
        found.setdefault("project", {"id": number, "label_config": snapshot.label_config})
        if "annotation" not in found:
            # It may be known from Label Studio's API alone.
            newest = max(
                ((one.updated_at_us, one, task.task) for task in self._state.stored(uid) for one in task.annotations),
                key=lambda each: (each[0], each[1].id),
                default=None,
            )
            if newest is not None:
                _, annotation, task = newest
                found["annotation"] = {"id": annotation.id, "result": annotation.result, "task": task["id"]}
                found["task"] = {"id": task["id"], "data": task["data"], "project": number}
        if "annotation" in found:
            found["annotation"].setdefault("project", number)
        return found

    # --- versions -----------------------------------------------------------------------------------------------------

    def _nothing_new(self, attempt: Attempt, fits: _Fits, mode: str) -> None:
        if fits.errors:
            # An event is seen once and never again: waiting longer and longer before the next would help nobody.
            if mode == "policy":
                attempt.trained_size = None
            attempt.tell_policy()
            reason = fits.reason()
            attempt.finish("failed", reason, error=reason, trace=fits.trace, counts=mode == "policy")
            return
        attempt.tell_policy()
        if fits.done:
            attempt.finish("succeeded", f"{fits.done} calls of fit left nothing new behind: what serves goes on")
        else:
            attempt.finish("cancelled", "nothing waits for fit: a run before this one saw it")

    def _make_version(
        self,
        attempt: Attempt,
        fits: _Fits,
        directory: Path,
        project: ProjectState,
        snapshot: Snapshot,
        params: dict[str, Any],
        *,
        first: bool,
    ) -> None:
        lease, uid = attempt.lease, attempt.lease.uid
        files = directory / "files"
        shutil.rmtree(directory, ignore_errors=True)
        files.mkdir(parents=True, mode=0o700)
        note = {"uid": uid, "output": self._kept.output(uid), "version": fits.version}
        (files / NOTE).write_bytes(orjson.dumps(note))
        reason = "before the first fit" if first else "after calls of fit in an earlier run"
        if fits.done:
            reason = f"after {fits.done} calls of fit"
        with attempt.phase("publish", 0.9):
            number = self._registry.new_number(uid)
            manifest = Manifest(
                name=f"{own_name(fits.version)}-{number}",
                promotion=Promotion(promoted=True, reason=reason),
                counters=project.counters,
                sizes={"annotations": project.training.trainable},
                label_config_hash=config_hash(snapshot.label_config),
                label_config=snapshot.label_config,
                trigger=lease.trigger,
                reason=lease.reason,
                run=lease.run_id,
                seq=snapshot.seq,
                durations=dict(attempt.durations),
                libraries=libraries(),
                params=params,
            )
            version = self._registry.publish(uid, number, files, manifest, attempt.may_publish, now=self._runs.time())
            attempt.version = version.name
        self._kept.served(lease)
        self._conclude(attempt, version, failure=fits.reason() if fits.errors else "", trace=fits.trace)


def own_name(version: str) -> str:
    """A class's own name for its version, as part of ours: readable, and without what a status line cannot hold."""
    return re.sub(r"[^\w.+ -]", "_", version).strip()[:_LONGEST_NAME] or "model"


class _Helper:
    """The process that calls `fit`: started when it is first needed, and again after it died."""

    def __init__(self, hello: Callable[[], dict[str, Any]], run: Run) -> None:
        self._hello = hello
        self._process: PlainProcess | None = None
        self.look = run.stop_if_asked

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.close()

    def get(self) -> PlainProcess:
        """The process. Raises `ModelLoadFailed` when the class cannot be imported or made."""
        if self._process is None or not self._process.alive:
            try:
                self._process = PlainProcess(self._hello(), look=self.look)
            except (PlainDied, PlainFailed) as error:
                # Not the event's fault: it stays in the line.
                raise ModelLoadFailed(str(error)) from error
        return self._process
