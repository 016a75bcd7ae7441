"""What an annotator feels of a refresh of 10,000 tasks: Submit on a real Label Studio 1.23.2, at rest and during it.

Somebody submits every half second, before, all through it and after it; Label Studio, its SQLite and the backend share
this machine. Usage: python -m benchmarks.refresh [--json] [--short]
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Row, folder, options, report
from tests.label_studio.driver import Driver, choices, choices_config
from tests.label_studio.server import RealLabelStudio
from tests.models.shuffling import CHOICES
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL = 1.5
MODEL = Path(__file__).parents[1] / "tests" / "models" / "shuffling.py"
PACE_S = 0.5


@dataclass(frozen=True)
class Measured:
    """Seconds that each Submit took, and how many predictions were stored in how many seconds meanwhile.

    ``whole``: the refresh was watched to its end. ``progress``: of every tenth Submit during it the second, how many
    predictions were stored by then, and the median of those ten in milliseconds.
    """

    at_rest: list[float]
    during: list[float]
    stored: int
    seconds: float
    whole: bool
    progress: list[tuple[int, int, float]]

    @property
    def ratio(self) -> float:
        """The median during the refresh, as a multiple of the one at rest."""
        return statistics.median(self.during) / statistics.median(self.at_rest)


@dataclass(frozen=True)
class Ready:
    """A project with tasks that nobody has labelled, connected to a backend that has trained nothing yet."""

    person: Driver
    backend: RunningBackend
    project: int
    tasks: list[int]


@contextlib.contextmanager
def ready(tasks: int, rest: int) -> Iterator[Ready]:
    """Label Studio, backend and project in folders of their own; the Submit number ``rest`` starts the training."""
    with contextlib.ExitStack() as open_:
        where = open_.enter_context(folder())
        studio = open_.enter_context(RealLabelStudio(where / "studio"))
        environment = {
            "LABEL_STUDIO_URL": studio.base_url,
            "LABEL_STUDIO_API_KEY": studio.personal_token,
            "ML_BACKEND_PREDICTIONS_LIMIT": str(tasks),
            "ML_BACKEND_PREDICTIONS_MAX_SECONDS": "86400",
            "PYTHONPATH": str(MODEL.parents[2]),
        }
        backend = open_.enter_context(
            RunningBackend(where / "backend", arguments=[str(MODEL)], environment=environment)
        )
        person = open_.enter_context(Driver(studio.base_url, studio.personal_token))
        project = person.create_project(choices_config(CHOICES))["id"]
        rules = {"retrain": {"min_annotations": rest, "every": 1_000_000, "quiet": 0.5}}
        person.connect(project, backend.url, extra_params={"refit": rules})
        ids: list[int] = []
        for start in range(0, tasks, 1000):
            some = range(start, min(tasks, start + 1000))
            ids += person.import_tasks(project, [{"text": f"number {n}"} for n in some])
        yield Ready(person, backend, project, ids)


def measure(over: Ready, *, rest: int = 30, window_s: float = 900.0) -> Measured:
    """Submit ``rest`` times, then all through the refresh (for ``window_s`` seconds at most), then as often again."""
    todo = iter(over.tasks * 3)  # some are labelled twice: a Submit is a Submit

    def submit() -> float:
        began = time.perf_counter()
        over.person.annotate(next(todo), choices(CHOICES[0]))
        took = time.perf_counter() - began
        time.sleep(PACE_S)
        return took

    def stored() -> int:
        counts = over.person.model_versions(over.project)
        return max((n for name, n in counts.items() if name.startswith("v1-")), default=0)

    at_rest = [submit() for _ in range(rest)]
    wait_until(lambda: "fresh predictions of v1" in over.backend.log(), 120, "a refresh begins", every_s=0.2)
    began = time.monotonic()
    during: list[float] = []
    progress: list[tuple[int, int, float]] = []
    whole = False
    while not whole and time.monotonic() - began < window_s:
        during.append(submit())
        whole = "got a fresh prediction" in over.backend.log()
        if len(during) % 10 == 0:
            median = 1000 * statistics.median(during[-10:])
            progress.append((round(time.monotonic() - began), stored(), median))
            print(f"{progress[-1][0]} s: {progress[-1][1]} stored, Submit {median:.0f} ms", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    sent = stored()
    at_rest += [submit() for _ in range(rest)]
    return Measured(at_rest, during, sent, seconds, whole, progress)


def rows(measured: Measured) -> list[Row]:
    """The table."""
    made = []
    for name, took in (("at rest", measured.at_rest), ("during the refresh", measured.during)):
        ordered = sorted(one * 1000 for one in took)
        made.append(Row(f"Submit {name}, median of {len(took)}", statistics.median(ordered), "ms"))
        made.append(Row(f"Submit {name}, 95th percentile", ordered[int(0.95 * (len(ordered) - 1))], "ms"))
    ratio = measured.ratio
    made.append(Row("median during / at rest", ratio, "times", goal=f"<= {GOAL:g}", met=ratio <= GOAL))
    how = "the whole refresh" if measured.whole else "not the whole refresh"
    made.append(Row("predictions stored", measured.stored, "", note=f"in {measured.seconds:.0f} s, {how}"))
    return made


def main() -> None:
    """The command."""
    chosen = options(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped
    tasks, rest = (600, 10) if chosen.short else (10_000, 30)
    with ready(tasks, rest) as over:
        measured = measure(over, rest=rest)
    report("A refresh, as an annotator feels it", rows(measured), chosen)


if __name__ == "__main__":
    main()
