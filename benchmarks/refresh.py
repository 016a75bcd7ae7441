"""What an annotator feels of a refresh of 10,000 tasks: Submit on a real Label Studio 1.23.2, at rest and during it.

Somebody submits every half second, before, during and after it; Label Studio, its SQLite and the backend share this
machine. Usage: python -m benchmarks.refresh [--json] [--short]
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
    from collections.abc import Callable

GOAL = 1.5
MODEL = Path(__file__).parents[1] / "tests" / "models" / "shuffling.py"
PACE_S = 0.5


@dataclass(frozen=True)
class Measured:
    """Seconds that each Submit took, and how many predictions were stored in how many seconds meanwhile."""

    at_rest: list[float]
    during: list[float]
    stored: int
    seconds: float

    @property
    def ratio(self) -> float:
        """The median during the refresh, as a multiple of the one at rest."""
        return statistics.median(self.during) / statistics.median(self.at_rest)


def measure(tasks: int = 10_000, *, rest: int = 30, window_s: float = 150.0) -> Measured:
    """Measure it in folders of its own, with ``rest`` submits before and after. `measure(600, rest=10)` is small.

    The refresh is watched for ``window_s`` seconds at most, from its first look at the tasks on.
    """
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
        return _measured(person, backend, tasks, rest, window_s)


def _measured(person: Driver, backend: RunningBackend, tasks: int, rest: int, window_s: float) -> Measured:
    project = person.create_project(choices_config(CHOICES))["id"]
    # The last Submit at rest starts the only training, and the training the refresh.
    rules = {"retrain": {"min_annotations": rest, "every": 1_000_000, "quiet": 0.5}}
    person.connect(project, backend.url, extra_params={"refit": rules})
    ids: list[int] = []
    for start in range(0, tasks, 1000):
        ids += person.import_tasks(project, [{"text": f"number {n}"} for n in range(start, min(tasks, start + 1000))])
    todo = iter(ids * 3)  # some are labelled twice: a Submit is a Submit

    def submits(enough: Callable[[int], bool]) -> list[float]:
        took: list[float] = []
        while not enough(len(took)):
            began = time.perf_counter()
            person.annotate(next(todo), choices(CHOICES[0]))
            took.append(time.perf_counter() - began)
            time.sleep(PACE_S)
        return took

    def stored() -> int:
        return max((n for name, n in person.model_versions(project).items() if name.startswith("v1-")), default=0)

    at_rest = submits(lambda done: done >= rest)
    wait_until(lambda: "fresh predictions of v1" in backend.log(), 120, "a refresh begins", every_s=0.2)
    began = time.monotonic()
    during = submits(lambda done: done % 10 == 9 and (stored() >= tasks or time.monotonic() - began > window_s))
    seconds = time.monotonic() - began
    sent = stored()
    at_rest += submits(lambda done: done >= rest)
    return Measured(at_rest, during, sent, seconds)


def rows(measured: Measured) -> list[Row]:
    """The table."""
    made = []
    for name, took in (("at rest", measured.at_rest), ("during the refresh", measured.during)):
        ordered = sorted(one * 1000 for one in took)
        made.append(Row(f"Submit {name}, median of {len(took)}", statistics.median(ordered), "ms"))
        made.append(Row(f"Submit {name}, 95th percentile", ordered[int(0.95 * (len(ordered) - 1))], "ms"))
    ratio = measured.ratio
    made.append(Row("median during / at rest", ratio, "times", goal=f"<= {GOAL:g}", met=ratio <= GOAL))
    made.append(Row("predictions stored", measured.stored, "", note=f"in {measured.seconds:.0f} s"))
    return made


def main() -> None:
    """The command."""
    chosen = options(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped
    measured = measure(600, rest=10) if chosen.short else measure()
    report("A refresh, as an annotator feels it", rows(measured), chosen)


if __name__ == "__main__":
    main()
