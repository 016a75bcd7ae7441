"""What a growing project costs: runs and examples processed in all, by the policy alone and through the real stack.

Usage: python -m benchmarks.growth [--json] [--short] [--only simulated|real]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from benchmarks.common import Row, folder, options, report
from ml_backend.policy import Train, TrainingState, Wait, decide
from ml_backend.settings import RetrainSettings
from tests.faults.stage import Stage, annotation, asked, uid

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = RetrainSettings()
EVERY_TEN = RetrainSettings(growth=0.0)
AT_ONCE = RetrainSettings(quiet=0.0, min_interval=0.0)
"""The default thresholds without pauses: whoever waits for each run sees every one that the thresholds allow."""

LATEST_TICK_S = 0.2
GOAL = 10.0


@dataclass
class Growth:
    """What it came to. ``sizes``: annotations in each run's training set, in order; ``ends``: those when it ended."""

    final: int
    sizes: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def work(self) -> float:
        """Examples processed in all, as a multiple of the final size."""
        return sum(self.sizes) / self.final


@dataclass(frozen=True)
class Pace:
    """How fast people annotate, and how fast a model trains. Seconds."""

    annotation: float = 5.0
    run: float = 5.0
    example: float = 0.002

    def training(self, examples: int) -> float:
        """How long a run takes."""
        return self.run + self.example * examples


def simulate(
    annotations: int, settings: RetrainSettings = DEFAULT, pace: Pace | None = None, *, already: int = 0
) -> Growth:
    """A project that grows by one annotation after the other; every decision is the product's own.

    ``already``: so many were imported before.

    The policy is asked with each annotation, with the end of each run and when it said that it wants to be asked, as
    in the product. The runs that follow the last annotation count too.
    """
    pace = pace or Pace()
    found = Growth(annotations)
    state = TrainingState()
    here, now = already, 0.0
    if already:
        state = replace(state, useful=already, trainable=already, seq=already, last_change_at=now)
    wake = 0.0 if already else math.inf
    run_ends = math.inf
    while True:
        arrives = (here + 1 - already) * pace.annotation if here < annotations else math.inf
        now = min(arrives, wake, run_ends)
        if math.isinf(now):
            return found
        wake = math.inf if wake <= now else wake
        if arrives <= now:
            here += 1
            state = replace(state, useful=here, trainable=here, seq=here, last_change_at=now)
        if run_ends <= now:
            size = found.sizes[-1]
            found.ends.append(here)
            ended = replace(state, trained=True, trained_size=size, attempted_seq=size, last_ended_at=now)
            state = replace(ended, last_seconds=pace.training(size), threshold_at=None, running=None)
            run_ends = math.inf
        state = replace(state, changed=here - max(0, state.attempted_seq))
        decision = decide(state, settings, now)
        if isinstance(decision, Train):
            found.sizes.append(here)
            run_ends = now + pace.training(here)
            state = replace(state, running="a run")
        elif isinstance(decision, Wait):
            if decision.reached and state.threshold_at is None and state.running is None:
                state = replace(state, threshold_at=now)
            if decision.until is not None:
                wake = max(decision.until, now + LATEST_TICK_S)


def through_the_stack(where: Path, annotations: int) -> Growth:
    """The same, one webhook after the other, with web server, clock, worker and the shipped model; no pauses."""
    told = {"ML_BACKEND_RETRAIN_QUIET": "0", "ML_BACKEND_RETRAIN_MIN_INTERVAL": "0"}
    with Stage(where, lease_s=15.0, model=None, **told) as stage:
        for number in range(1, annotations + 1):
            _, answer = asked(stage.backend.port, annotation(number))
            if "job" in answer:
                run_id = answer["job"]
                stage.wait(lambda at=run_id: (run := stage.services.runs.get(at)) and run.over, 120, run_id)
        history = reversed(stage.services.runs.history(uid(7), 200))
        if failed := [run.ending for run in history if run.status != "succeeded"]:
            raise RuntimeError(f"a run did not succeed: {failed[0]}")
        versions = stage.services.registry.versions(uid(7))
        return Growth(annotations, sorted(version.manifest.sizes["annotations"] for version in versions))


def main() -> None:
    """Measure and report."""
    chosen = options(__doc__, parts=("simulated", "real"), rounds=1)
    whole, real = (1_000, 100) if chosen.short else (10_000, 1_000)
    rows = []
    if chosen.wants("simulated"):
        every_ten = simulate(whole, EVERY_TEN)
        for name, pace in (("one every 5 s", Pace()), ("two a second", Pace(annotation=0.5))):
            ours = simulate(whole, pace=pace)
            rows.append(Row(f"{whole:,} annotations, {name}: runs", len(ours.sizes), "runs", note="simulated"))
            rows.append(_work(f"{whole:,} annotations, {name}: work", ours, "simulated"))
        rows.append(
            Row(
                f"{whole:,} annotations, trained every 10: work",
                every_ten.work,
                "x final size",
                note=f"simulated: {len(every_ten.sizes):,} runs",
            )
        )
    if chosen.wants("real"):
        expected = simulate(real, AT_ONCE, Pace(annotation=60.0, run=1.0))
        with folder() as where:
            ours = through_the_stack(where / "stack", real)
        note = f"simulated: {len(expected.sizes)}"
        rows.append(Row(f"{real:,} annotations, the real stack: runs", len(ours.sizes), "runs", note=note))
        rows.append(_work(f"{real:,} annotations, the real stack: work", ours, f"simulated: {expected.work:.2f}"))
    report("A growing project", rows, chosen)


def _work(what: str, growth: Growth, note: str) -> Row:
    return Row(what, growth.work, "x final size", goal=f"<= {GOAL:g}", met=growth.work <= GOAL, note=note)


if __name__ == "__main__":
    main()
