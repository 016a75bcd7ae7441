"""Sync: a complete one of a real Label Studio against its bare export, and an incremental one after ten changes.

Label Studio 1.23.2 is started through uvx and filled with tasks that have an annotation each; export and sync read the
same project in turn. Each complete sync fills an empty Redis (the private Valkey, ``appendfsync always``).
Usage: python -m benchmarks.sync [--json] [--short] [--rounds N] [--only 5000] [--only 20000]
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from benchmarks.banking77 import Questions
from benchmarks.common import Options, Row, compared, folder, options, report, seconds, valkey
from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services
from ml_backend.settings import Settings
from ml_backend.sync.reading import OVERLAP_US
from tests.label_studio.driver import Driver, choices, choices_config
from tests.label_studio.server import RealLabelStudio

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.state import ProjectState

PARTS = ("5000", "20000")
SHORT = 200
CHANGES = 10
_IMPORTED_AT_ONCE = 2500
_SETTLED_S = OVERLAP_US / 1e6 + 5


class Filled:
    """A project with ``size`` labelled tasks, connected to nothing, and where it can be asked for."""

    def __init__(self, studio: RealLabelStudio, driver: Driver, redis_url: str, size: int) -> None:
        questions = Questions.read()
        self._driver, self._studio, self._redis_url, self._fresh = driver, studio, redis_url, 0
        self.config = choices_config(questions.labels)
        created = driver.create_project(self.config)
        self.id = int(created["id"])
        rows = [questions.train[at % len(questions.train)] for at in range(size)]
        tasks = [{"data": {"text": text}, "annotations": [{"result": choices(label)}]} for text, label in rows]
        for at in range(0, size, _IMPORTED_AT_ONCE):
            driver.import_tasks(self.id, tasks[at : at + _IMPORTED_AT_ONCE])
        self.size = size
        self.services = self._services()
        with self.services.label_studio() as api:
            self.uid = str(api.project(self.id).project.uid)

    def _services(self) -> Services:
        """Ours, over an empty part of Redis."""
        self._fresh += 1
        settings = Settings(
            redis_url=SecretStr(self._redis_url),
            redis_prefix=f"project-{self.id}-{self._fresh}:",
            label_studio_url=self._studio.base_url,
            label_studio_api_key=SecretStr(self._studio.personal_token),
        )
        return make_services(settings, timeout_s=PATIENT_TIMEOUT_S)

    def export(self) -> float:
        """Seconds of the bare export (JSON, labelled tasks), its body not even decoded."""

        def read() -> None:
            answer = self._driver.http.get(f"/api/projects/{self.id}/export", params={"exportType": "JSON"})
            answer.raise_for_status()

        return seconds(read)

    def complete(self) -> float:
        """Seconds of the first sync of a project that is labelled already."""
        self.services.close()
        self.services = self._services()
        self.services.state.setup(self.uid, self.config, None, time.time())
        syncer = self.services.syncer()
        took = seconds(lambda: syncer.sync(self.uid))
        assert self.stored().derived.total_annotations_number == self.size
        return took

    def incremental(self) -> float:
        """Seconds of the sync after ten changes: five edits and five new annotations."""
        tasks = self._driver.call(
            "GET", "/api/tasks/", params={"project": self.id, "page_size": CHANGES, "fields": "all"}
        )
        for number, task in enumerate(tasks["tasks"]):
            if number % 2:
                self._driver.annotate(task["id"], choices("card_arrival"))
                self.size += 1
            else:
                self._driver.update_annotation(task["annotations"][0]["id"], result=choices("card_arrival"))
        self.services.syncs().request(self.uid, "incremental", "benchmark", time.time())
        syncer = self.services.syncer()
        took = seconds(lambda: syncer.sync(self.uid))
        stored = self.stored()
        assert stored.derived.total_annotations_number == self.size
        assert stored.complete_at != stored.synced_at, "it was an incremental one"
        return took

    def stored(self) -> ProjectState:
        found = self.services.state.load(self.uid)
        assert found is not None
        return found


def peak_mb(filled: Filled) -> float:
    """By how much a complete sync makes this process grow at its peak, in MB (Linux)."""
    status = Path("/proc/self/status")

    def now(name: str) -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = now("VmRSS")
    filled.complete()
    return max(0.0, now("VmHWM") - before)


def measure(filled: Filled, rounds: int) -> list[Row]:
    """Three rows: against the export, its memory, and the incremental sync."""
    filled.complete()  # imports
    exports, completes = [], []
    for number in range(rounds):
        for ours in (True, False) if number % 2 else (False, True):
            (completes if ours else exports).append(filled.complete() if ours else filled.export())
    grown = peak_mb(filled)
    # What was saved less than the overlap ago is read again: that would be everything.
    time.sleep(_SETTLED_S if filled.size > SHORT else 0)
    filled.complete()
    increments = [filled.incremental() for _ in range(rounds)]
    share = statistics.median(increments) / statistics.median(completes)
    size = f"{filled.size - CHANGES // 2 * rounds:,} labelled tasks"
    return [
        compared(
            f"complete sync, {size}", completes, exports, "s", at_most=1.0, note="peer: Label Studio's bare export"
        ),
        Row(f"growth of the process meanwhile, {size}", grown, "MB"),
        Row(
            f"incremental sync after {CHANGES} changes, {size}",
            statistics.median(increments),
            "s",
            goal="< 5 % of complete",
            met=share < 0.05,
            note=f"{share:.1%} of the complete one",
        ),
    ]


def run(chosen: Options) -> list[Row]:
    """All rows; a part that is not named is the small one."""
    sizes = [SHORT] if chosen.short else [int(part) for part in PARTS if part in (chosen.only or {"5000"})]
    rows: list[Row] = []
    with (
        folder() as where,
        valkey(where / "valkey") as (server, _),
        RealLabelStudio(where / "ls") as studio,
        Driver(studio.base_url, studio.personal_token) as driver,
    ):
        for size in sizes:
            rows += measure(Filled(studio, driver, server.url, size), chosen.rounds)
    return rows


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS, rounds=3)
    report("Sync with Label Studio", run(chosen), chosen)


if __name__ == "__main__":
    main()
