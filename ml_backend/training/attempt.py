"""One attempt of a run: what the model is given of it, how far it is, and the end that it comes to."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ml_backend.errors import LeaseLost, RunCancelled, Unavailable
from ml_backend.label_config import config_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ml_backend.examples import JsonObject
    from ml_backend.runs import Lease, Outcome, Runs
    from ml_backend.state import Snapshot, State

log = logging.getLogger(__name__)

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


@dataclass
class Attempt:
    """One attempt of a run, as far as it has come. ``began`` is monotonic, in s."""

    lease: Lease
    keeper: Keeper
    runs: Runs = field(repr=False)
    state: State = field(repr=False)
    began: float = field(default_factory=time.monotonic)
    snapshot: Snapshot | None = None
    trained_size: int | None = None
    version: str = ""
    durations: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """How a line of the log begins."""
        version = f" version {self.version}" if self.version else ""
        return f"project {self.lease.uid} run {self.lease.run_id}{version}"

    @contextmanager
    def phase(self, name: str, fraction: float) -> Iterator[None]:
        """Be in a phase, and keep how long it took. Raises `LeaseLost`."""
        began = time.monotonic()
        if self.keeper.lost:
            raise LeaseLost("the lease of this run is lost")
        self.progress(name, fraction, "")
        yield
        self.durations[name] = round(time.monotonic() - began, 3)
        log.info("%s: %s took %.2f s", self, name, self.durations[name])

    def progress(self, phase: str, fraction: float, message: str) -> None:
        """Say how far it is. Raises `LeaseLost`."""
        try:
            held = self.runs.progress(self.lease, phase, fraction, message, self.runs.time())
        except Unavailable as error:
            # Whether a Redis that is away ends the run is for the keeper to decide: it may be back in a second.
            log.warning("%s: its progress cannot be reported: %s", self, error)
            return
        if not held:
            raise LeaseLost("the lease of this run is lost")

    def may_publish(self) -> bool:
        """The fence: whether the lease holds. Raises `RunCancelled`, of which the keeper hears a moment later."""
        seen = self.runs.look(self.lease)
        if seen.cancelled:
            raise RunCancelled("cancelled")
        return seen.ok

    def tell_policy(self) -> None:
        """Tell the policy what this attempt saw, before the run ends and the clock decides again."""
        if self.snapshot is None:
            return
        self.state.attempted(
            self.lease.uid,
            self.snapshot,
            self.runs.time(),
            seconds=time.monotonic() - self.began,
            trained_size=self.trained_size,
            config_hash=config_hash(self.snapshot.label_config),
        )

    def finish(self, outcome: Outcome, reason: str, *, error: str = "", trace: str = "", counts: bool = True) -> None:
        """End the run, unless the lease is lost."""
        held = self.runs.finish(
            self.lease,
            outcome,
            reason=reason,
            error=error,
            traceback=trace,
            details={"durations": self.durations, "version": self.version, "annotations": self.trained_size},
            counts=counts,
            now=self.runs.time(),
        )
        if not held:
            log.warning("%s: its lease is lost, its end is not written: %s: %s", self, outcome, reason)
            return
        log.info("%s: %s: %s", self, outcome, reason)
        if outcome != "succeeded":
            self.state.decided(self.lease.uid, outcome, reason, self.runs.time())
