"""What an annotator feels: Submit on a real Label Studio 1.23.2, with this backend connected and without any.

Annotations go to a project with the backend and to an equal one without: at rest, while a run trains (it takes a whole
core for as long as it lasts), and while the predictions of a new version are sent. Connections are used again, as
browsers do; an answer of Label Studio's own server then waits 40 ms until its head is acknowledged. "apart" is at rest
without that.
Usage: python -m benchmarks.submit [--json] [--short] [--rounds N] [--only rest|apart|training|refreshing|0|5000]
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.common import Options, Row, bare, compared, environment, folder, options, report
from benchmarks.http import BURNER
from tests.label_studio.driver import Driver, choices, choices_config
from tests.label_studio.server import RealLabelStudio
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

LABELS = ("good", "bad")
SIZES = (0, 5_000)
REFRESHED = 1_000
KINDS = ("rest", "apart", "training", "refreshing")
PARTS = (*KINDS, *map(str, SIZES))
GOALS = {"rest": 1.25, "training": 1.25, "refreshing": 1.5}
SAID = {
    "rest": "at rest",
    "apart": "at rest, on connections of their own",
    "training": "while a run trains",
    "refreshing": "while predictions are refreshed",
}


@dataclass
class Project:
    """A project with labelled tasks, others to annotate, and the connection to the backend if it has one."""

    id: int
    fresh: list[int]
    connection: int | None = None

    def submit(self, person: Driver) -> float:
        """Seconds of one Submit."""
        task = self.fresh.pop()
        began = time.perf_counter()
        person.annotate(task, choices(LABELS[task % 2]))
        return time.perf_counter() - began


def project(person: Driver, labelled: int, fresh: int, url: str | None) -> Project:
    """Make one."""
    made = int(person.create_project(choices_config(LABELS))["id"])
    for at in range(0, labelled, 1_000):
        some = range(at, min(at + 1_000, labelled))
        tasks: list[dict[str, Any]] = [
            {"data": {"text": f"text {n}"}, "annotations": [{"result": choices(LABELS[n % 2])}]} for n in some
        ]
        person.import_tasks(made, tasks)
    connection = int(person.connect(made, url)["id"]) if url is not None else None
    return Project(made, person.import_tasks(made, [{"text": f"new {n}"} for n in range(fresh)]), connection)


def submits(person: Driver, one: Project, times: int) -> list[float]:
    """Milliseconds of each Submit."""
    return [1000 * one.submit(person) for _ in range(times)]


class Measurement:
    """One part with projects of one size."""

    def __init__(self, person: Driver, label_studio: RealLabelStudio, where: Path, *, size: int, times: int) -> None:
        self.person, self.label_studio, self.where = person, label_studio, where
        self.size, self.times = size, times
        self.refreshed = REFRESHED if times > 10 else 40

    def rows(self, part: str) -> list[Row]:
        """Measure it, and beside it a webhook that answers at once: what Label Studio itself does to send one."""
        self.person.http.headers["Connection"] = "close" if part == "apart" else "keep-alive"
        with self._backend(part) as backend, bare(self.where, "benchmarks.bare:app") as nobody:
            ours = self._project(backend.url, more=self.refreshed if part == "refreshing" else 0)
            others = [self._project(None), self._project(None)]
            self.person.create_webhook(f"{nobody.url}/webhook", project=others[1].id)
            for one in (ours, *others):
                one.submit(self.person)
            if self.size:
                wait_until(lambda: _trainable(backend) >= self.size, 300, "the labelled tasks are read", every_s=1)
            # What goes on is felt in every project of this Label Studio: "without" is before it, and after it.
            without = [] if self._is_quiet(part) else submits(self.person, others[0], self.times // 2 + 1)
            going_on = self._going_on(part, ours, backend)
            with_it, beside, at_once = self._in_turns(going_on, ours, *others)
            if part == "training" and not going_on():
                raise RuntimeError("the run ended before the measurement")
        without = without + submits(self.person, others[0], self.times // 2 + 1) if without else beside
        for one in (ours, *others):
            self.person.delete_project(one.id)
        what, middle = f"Submit, {self.size:,} labelled tasks, {SAID[part]}", [statistics.median(with_it)]
        note = f"{len(with_it)} and {len(without)} submits, slowest {max(with_it):.0f} and {max(without):.0f} ms"
        rows = [compared(what, middle, [statistics.median(without)], "ms", at_most=GOALS.get(part), note=note)]
        for peer, said in ((at_once, "bare Flask as the only webhook"), (beside, "no webhook")):
            if peer is not without:
                name, note = f"{what}: the same moments", f"peer: {said}, {len(peer)} submits"
                rows.append(compared(name, middle, [statistics.median(peer)], "ms", note=note))
        return rows

    @staticmethod
    def _is_quiet(part: str) -> bool:
        return part in {"rest", "apart"}

    def _going_on(self, part: str, ours: Project, backend: RunningBackend) -> Callable[[], bool]:
        """Begin what the part measures beside; whether it goes on."""
        if self._is_quiet(part):
            return lambda: True
        return self._train(ours, backend) if part == "training" else self._refresh(ours, backend)

    def _backend(self, part: str) -> RunningBackend:
        studio = self.label_studio
        given = {"LABEL_STUDIO_URL": studio.base_url, "LABEL_STUDIO_API_KEY": studio.personal_token}
        if part != "refreshing":
            # Only a click trains: 5,000 labels would start a run by themselves, and the click would wait for it.
            given["ML_BACKEND_RETRAIN_MIN_ANNOTATIONS"] = "1000000"
        data = self.where / f"{part}-{self.size}" / "data"
        data.mkdir(parents=True)
        return RunningBackend(data, arguments=[BURNER] if part == "training" else [], environment=given)

    def _project(self, url: str | None, *, more: int = 0) -> Project:
        return project(self.person, self.size, 2 * self.times + 20 + more, url)

    def _in_turns(self, going_on: Callable[[], bool], *projects: Project) -> list[list[float]]:
        """Milliseconds of each Submit, by project; fewer than asked for when ``going_on`` says that it is over."""
        found: list[list[float]] = [[] for _ in projects]
        for number in range(self.times):
            if not going_on():
                break
            turns = list(zip(projects, found, strict=True))
            for one, times in reversed(turns) if number % 2 else turns:
                times.append(1000 * one.submit(self.person))
        if not found[0]:
            raise RuntimeError("nothing was measured")
        return found

    def _train(self, ours: Project, backend: RunningBackend) -> Callable[[], bool]:
        """Click on Start Training; whether the run still trains."""
        job = self._click(ours)

        def trains() -> bool:
            return bool(backend.post("/job_status", {"job": job})[1].get("job_status") == "started")

        wait_until(trains, 30, f"the run {job} trains", every_s=0.1)
        return trains

    def _refresh(self, ours: Project, backend: RunningBackend) -> Callable[[], bool]:
        """Train a version; once its first predictions are there, whether some are still to come."""
        for _ in range(10):
            ours.submit(self.person)
        self._click(ours)

        def arrived() -> int:
            return sum(self.person.model_versions(ours.id).values())

        wait_until(arrived, 120, "the first fresh prediction arrives", every_s=0.05)
        # The first Submit counts whatever happens: in the short form there is hardly anything to send.
        said = itertools.count()
        return lambda: next(said) < 1 or arrived() < self.refreshed

    def _click(self, ours: Project) -> str:
        assert ours.connection is not None
        before = len(self.label_studio.train_jobs(ours.connection))
        self.person.start_training(ours.connection)
        jobs = self.label_studio.train_jobs(ours.connection)
        if len(jobs) == before:
            raise RuntimeError("Start Training brought no job")
        return jobs[-1]


def _trainable(backend: RunningBackend) -> int:
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", "status", "--json", "--data-dir", str(backend.data_dir)]
    said = json.loads(subprocess.run(argv, check=True, capture_output=True, env=environment({})).stdout)
    return int(said[0]["training_set"]["trainable"]) if said else 0


def measured(chosen: Options, label_studio: RealLabelStudio, where: Path) -> list[Row]:
    """A row for each size and part."""
    times = 4 if chosen.short else 10 * chosen.rounds
    rows = []
    with Driver(label_studio.base_url, label_studio.personal_token) as person:
        for size in (5,) if chosen.short else _chosen(SIZES, chosen):
            one = Measurement(person, label_studio, where, size=size, times=times)
            rows += [row for kind in _chosen(KINDS, chosen) for row in one.rows(kind)]
    return rows


def _chosen(all_of: tuple[T, ...], chosen: Options) -> list[T]:
    """Those that ``--only`` names, all where it names none."""
    return [one for one in all_of if str(one) in chosen.only] or list(all_of)


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS)
    with folder() as where, RealLabelStudio(where / "label-studio") as label_studio:
        report("Submit on a real Label Studio 1.23.2", measured(chosen, label_studio, where), chosen)


if __name__ == "__main__":
    main()
