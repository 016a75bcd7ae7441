"""Every process of the product is killed, at every step of a run and at random, while people go on annotating.

Fifty kills of the training side and twenty of Valkey: each process several times, each gate at least twice, and at
random. The longer run hits every process at every gate: ML_BACKEND_TEST_KILLS=180 (two Valkey kills come with five).
In parts: ML_BACKEND_TEST_FIRST_KILL=60 leaves out the first sixty. ML_BACKEND_TEST_SEED repeats the random ones.
Where horses are spawned, as on macOS, one kill of each process that differs is enough.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ml_backend.runs.machine import MAX_BACKOFF_S
from tests.faults.gated import GATES
from tests.faults.stage import Annotators, Stage, below, click, deliver, kill, processes, uid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.registry import Version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

KILLS = int(os.environ.get("ML_BACKEND_TEST_KILLS", "50"))
FIRST_KILL = int(os.environ.get("ML_BACKEND_TEST_FIRST_KILL", "0"))
SEED = int(os.environ.get("ML_BACKEND_TEST_SEED", "4"))
TICK_S = 0.1
BUSY_S = 5.9
"""For two busy cores: what was killed starts again, a process notices and is waited for."""
VICTIMS = ("horse", "keeper", "worker", "worker and horse", "clock", "web", "supervisor", "deploy", "everything")
HARMLESS = {"clock", "web", "valkey"}
WHOLE = {"supervisor", "deploy", "everything"}
SPAWNED = (("horse", "training"), ("worker", "stored"), ("keeper", "compare"), ("deploy", "committed"))
"""What differs where a horse and its keeper are no copies of their parents. The rest of the tree is the same."""
UID = uid(7)


@dataclass(frozen=True)
class Strike:
    """One kill, where the run stood, and how long its project stayed with it (from the restart, if there was one).

    ``again_after_s``: when the next attempt of the run began, which the policy of losses puts off by ``back_off_s``;
    0 where nobody waited for that.
    """

    victim: str
    where: str
    freed_after_s: float
    survivor: bool
    again_after_s: float = 0.0
    back_off_s: float = 0.0


@dataclass
class Ordeal:
    """What all the kills came to."""

    stage: Stage
    lease_s: float
    strikes: list[Strike] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    repeated: int = 0
    versions: list[Version] = field(default_factory=list)

    @property
    def free_within_s(self) -> float:
        """Who is killed renews no more: the lease runs out, the next tick takes the project from it.

        A killed clock's claim on the project runs out at the same time, since it is no longer than the lease.
        """
        return self.lease_s + TICK_S + BUSY_S

    def told(self) -> str:
        kinds = Counter("Valkey" if one.victim == "valkey" else "training" for one in self.strikes)
        free = max(self.strikes, key=lambda one: one.freed_after_s)
        return (
            f"{kinds['training']} kills of the training side, {kinds['Valkey']} of Valkey; {len(self.answered)} "
            f"annotations, {self.repeated} sent again; {len(self.versions)} versions; a project was free after at most "
            f"{free.freed_after_s:.1f} s ({free.victim} at {free.where}; lease {self.lease_s:g} s)"
        )

    @property
    def final(self) -> Version:
        return self.versions[0]


@pytest.fixture(scope="module", params=["fork", "spawn"])
def ordeal(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Ordeal]:
    """All kills, then one training in peace."""
    method = str(request.param)
    # A spawned keeper takes a second or two to begin; that must not cost the lease on a busy machine.
    lease_s = 2.0 if method == "fork" else 5.0
    quick = {"ML_BACKEND_RETRAIN_QUIET": "0.3", "ML_BACKEND_RETRAIN_MIN_INTERVAL": "0", "ML_BACKEND_TICK": str(TICK_S)}
    folder = tmp_path_factory.mktemp("ordeal")
    workers = {"ML_BACKEND_TRAIN_WORKERS": "2", "ML_BACKEND_WORKER": method}
    stage = Stage(folder, lease_s=lease_s, train_s=0.3, **workers, **quick)
    dice = random.Random(SEED)
    strikes = list(plan(dice, KILLS))[_strikes_before(FIRST_KILL) :] if method == "fork" else SPAWNED
    began = time.monotonic()
    with stage:
        ordeal = Ordeal(stage, lease_s)
        with Annotators(stage, every_s=0.1, tasks=100) as people:
            stage.wait(lambda: len(people.answered) > 20, 30, "the first annotations")
            for victim, gate in strikes:
                ordeal.strikes.append(strike(ordeal, victim, gate, dice))
        ordeal.answered, ordeal.repeated = people.answered, people.repeated
        stage.open_gates()
        deliver(stage.backend.port, click())
        stage.wait(lambda: at_peace(stage), 60, "the end of the last run")
        ordeal.versions = stage.services.registry.versions(UID)
        seconds = time.monotonic() - began
        pytestconfig.get_terminal_writer().line(f"\n{method}: {ordeal.told()}, {seconds:.0f} s")
        yield ordeal


def plan(dice: random.Random, kills: int) -> Iterator[tuple[str, str]]:
    """(victim, gate) of each kill, no gate for a random moment: seven in ten at gates, every pair another one."""
    # Nine processes and fourteen gates have no common divisor: 126 steps of both meet in every pair once.
    pairs = zip(itertools.cycle(VICTIMS), itertools.cycle(GATES), strict=False)
    valkey = iter(GATES)
    for number in range(kills):
        if number % 10 < 7:
            yield next(pairs)
        else:
            yield dice.choice(VICTIMS), ""
        if number % 5 in {1, 3}:
            yield "valkey", next(valkey, "")


def _strikes_before(kill: int) -> int:
    """How many strikes of a plan come before that kill of the training side, Valkey's included."""
    return sum(1 for _ in plan(random.Random(SEED), kill))


def strike(ordeal: Ordeal, victim: str, gate: str, dice: random.Random) -> Strike:
    """Let a run come to the gate (or let it run), kill, and wait until the project is free of that attempt."""
    stage = ordeal.stage
    if gate:
        stage.close_gate(gate)
        deliver(stage.backend.port, click())
        horse = stage.wait(lambda: stage.waiting_at(gate), 40, f"a run at {gate!r}, for {victim}")
    else:
        deliver(stage.backend.port, click())
        horse = stage.wait(stage.horses, 40, f"a run, for {victim}")[0]
        time.sleep(dice.uniform(0.0, 0.6))
    held = stage.steadily(stage.holder)
    hit(stage, victim, horse)
    if victim in WHOLE:
        stage.restart()
    elif victim in HARMLESS:
        stage.open_gates()
    began = time.monotonic()
    stage.wait(lambda: not held or stage.holder() != held, 60, f"free of the attempt after {victim} at {gate!r}")
    took = time.monotonic() - began
    # A trainer that nobody could tell is given one more lease; the gate stays closed, so it does not end by itself.
    survivor = False
    # Who has ended its run by its own word trains no more, and is let be although its keeper is gone.
    over = victim == "keeper" and not held
    if victim not in HARMLESS and gate and not over:
        until = time.monotonic() + ordeal.free_within_s
        while (survivor := horse in processes()) and time.monotonic() < until:
            time.sleep(0.02)
    stage.open_gates()
    return Strike(victim, gate or "random", took, survivor, *tried_again(stage, victim, began))


def tried_again(stage: Stage, victim: str, began: float) -> tuple[float, float]:
    """(when the lost run began again, its back-off), both in s; (0, 0) where no lost run waits for its back-off."""
    waiting = stage.steadily(lambda: stage.services.runs.waiting(UID))
    if victim != "worker" or waiting is None or not waiting.losses:
        return 0.0, 0.0
    attempts = waiting.attempts

    def again() -> bool:
        run = stage.services.runs.get(waiting.id)
        return run is not None and run.attempts > attempts

    stage.wait(again, 60, f"the next attempt of run {waiting.id}")
    return time.monotonic() - began, min(2.0 ** (waiting.losses - 1), MAX_BACKOFF_S)


def hit(stage: Stage, victim: str, horse: int) -> None:
    tree = processes()
    worker = tree[horse].parent if horse in tree else 0
    if victim == "deploy":
        for one in (stage.supervisor, *(process.pid for process in below(stage.supervisor))):
            kill(one, signal.SIGTERM)
        return
    chosen = {
        "horse": [horse],
        "keeper": [one.pid for one in tree.values() if one.parent == horse] or [horse],
        "worker": [worker],
        "worker and horse": [worker, horse],
        "supervisor": [stage.supervisor],
        "everything": [stage.supervisor, *(one.pid for one in below(stage.supervisor))],
        "valkey": stage.named("valkey-server"),
    }.get(victim) or stage.named(victim)
    for pid in chosen:
        if pid > 1:
            kill(pid)


def at_peace(stage: Stage) -> bool:
    standing = stage.services.runs.standing(UID)
    project = stage.services.state.load(UID)
    assert project is not None
    return not standing.waiting and not standing.running and not project.training.changed


def test_no_answered_annotation_is_lost(ordeal: Ordeal) -> None:
    stored = ordeal.stage.services.state.stored(UID)
    assert {one.id for task in stored for one in task.annotations} == set(ordeal.answered)


def test_the_last_version_is_trained_on_all_of_them(ordeal: Ordeal) -> None:
    folder = ordeal.stage.services.registry.fetch(UID, ordeal.final.number)
    assert json.loads((folder / "seen.json").read_text()) == sorted(ordeal.answered)
    assert ordeal.final.manifest.sizes["annotations"] == len(ordeal.answered)


def test_the_last_version_serves(ordeal: Ordeal) -> None:
    serving = ordeal.stage.services.registry.serving(UID)
    assert serving is not None
    assert serving.name == ordeal.final.name


def test_every_version_is_whole(ordeal: Ordeal) -> None:
    for version in ordeal.versions:
        folder = ordeal.stage.services.registry.fetch(UID, version.number)
        assert len(json.loads((folder / "seen.json").read_text())) == version.manifest.sizes["annotations"]


def test_nothing_lies_in_the_store_that_is_no_version(ordeal: Ordeal) -> None:
    numbers = {version.number for version in ordeal.versions}
    folders = [one for one in (ordeal.stage.backend.data_dir / "versions" / UID).iterdir() if one.is_dir()]
    assert {one.name for one in folders} == {str(number) for number in numbers}


def test_a_run_publishes_one_version_at_most(ordeal: Ordeal) -> None:
    runs = Counter(version.manifest.run for version in ordeal.versions)
    assert [run for run, times in runs.items() if times > 1] == []


def test_whoever_promoted_was_the_only_one_in_the_project_meanwhile(ordeal: Ordeal) -> None:
    started: dict[int, float] = {}
    starts: list[float] = []
    for at, pid, gate in ordeal.stage.passages():
        if gate == "started":
            started[pid] = at
            starts.append(at)
        elif gate == "promoted":
            assert [one for one in starts if started[pid] < one < at] == [], pid


def test_runs_follow_one_another(ordeal: Ordeal) -> None:
    runs = [run for run in ordeal.stage.services.runs.history(UID, 200) if run.started_at and run.ended_at]
    for later, earlier in itertools.pairwise(runs):
        assert later.started_at >= earlier.ended_at, (later.id, earlier.id)  # type: ignore[operator]


def test_no_project_is_stuck_beyond_its_lease(ordeal: Ordeal) -> None:
    assert [one for one in ordeal.strikes if one.freed_after_s > ordeal.free_within_s] == []


def test_a_lost_run_is_tried_again_after_its_back_off(ordeal: Ordeal) -> None:
    waited = [one for one in ordeal.strikes if one.again_after_s]
    # The next attempt is seen only by who looks while it waits: of a few kills it may have been none.
    assert waited or len(ordeal.strikes) <= len(SPAWNED)
    assert [one for one in waited if one.again_after_s > ordeal.free_within_s + one.back_off_s + TICK_S] == []


def test_no_trainer_survives_its_run(ordeal: Ordeal) -> None:
    assert [one for one in ordeal.strikes if one.survivor] == []


def test_the_fifty_kills_hit_each_process_and_each_gate() -> None:
    strikes = list(plan(random.Random(SEED), 50))
    training = [one for one in strikes if one[0] != "valkey"]
    at_gates = Counter(one for one in training if one[1])
    assert (len(training), len(strikes) - len(training)) == (50, 20)
    assert {victim for victim, _ in at_gates} == set(VICTIMS)
    assert (
        {gate for _, gate in at_gates} == {gate for victim, gate in strikes if victim == "valkey"} - {""} == set(GATES)
    )
    assert min(Counter(gate for _, gate in at_gates).values()) >= 2


def test_the_longer_run_hits_each_process_at_each_gate() -> None:
    strikes = set(plan(random.Random(SEED), 180))
    assert set(itertools.product(VICTIMS, GATES)) <= strikes
