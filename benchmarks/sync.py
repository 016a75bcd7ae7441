"""Sync: a complete one of a real Label Studio against its bare export, and an incremental one after ten changes.

Label Studio 1.23.2 is started through uvx and filled with tasks that have an annotation each; export and sync read the
same project in turn. Each complete sync fills an empty Redis (the private Valkey, ``appendfsync always``).
Filling takes minutes and need not be measured: ``--prepare`` does that alone, in a folder that ``--folder`` keeps, and
whoever names that folder later measures at once.
Usage: python -m benchmarks.sync [--json] [--short] [--rounds N] [--only 5000] [--only 20000] [--folder F [--prepare]]
"""

from __future__ import annotations

import contextlib
import json
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
    from collections.abc import Iterator, Mapping

    from ml_backend.bootstrap import Services
    from ml_backend.state import ProjectState

PARTS = ("5000", "20000")
SHORT = 200
CHANGES = 10
_IMPORTED_AT_ONCE = 2500
_SETTLED_S = OVERLAP_US / 1e6 + 5


def fill(driver: Driver, size: int) -> int:
    """Make a project with ``size`` labelled tasks; its id."""
    questions = Questions.read()
    project = int(driver.create_project(choices_config(questions.labels))["id"])
    rows = [questions.train[at % len(questions.train)] for at in range(size)]
    tasks = [{"data": {"text": text}, "annotations": [{"result": choices(label)}]} for text, label in rows]
    for at in range(0, size, _IMPORTED_AT_ONCE):
        driver.import_tasks(project, tasks[at : at + _IMPORTED_AT_ONCE])
    return project


class Filled:
    """A project of labelled tasks, connected to nothing, and where it can be asked for."""

    def __init__(self, studio: RealLabelStudio, driver: Driver, redis_url: str, project: int) -> None:
        self._driver, self._studio, self._redis_url, self._fresh = driver, studio, redis_url, 0
        self.id = project
        found = driver.project(project)
        self.config = str(found["label_config"])
        self.size = int(found["total_annotations_number"])
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
    grown = peak_mb(filled)
    size = f"{filled.size:,} annotations"
    exports, completes = [], []
    for number in range(rounds):
        for ours in (True, False) if number % 2 else (False, True):
            (completes if ours else exports).append(filled.complete() if ours else filled.export())
    increments = [filled.incremental() for _ in range(rounds)]
    share = statistics.median(increments) / statistics.median(completes)
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


def measured(studio: RealLabelStudio, chosen: Options, *, filled: Mapping[int, int] | None = None) -> list[Row]:
    """All rows. ``filled``: projects by their size, made by `fill` more than a minute ago."""
    with (
        folder() as where,
        valkey(where / "valkey") as (server, _),
        Driver(studio.base_url, studio.personal_token) as driver,
    ):
        if filled is None:
            filled = {size: fill(driver, size) for size in sizes(chosen)}
            # What was saved less than the overlap ago is read again: that would be everything.
            time.sleep(0 if chosen.short else _SETTLED_S)
        rows: list[Row] = []
        for size in sizes(chosen):
            rows += measure(Filled(studio, driver, server.url, filled[size]), chosen.rounds)
    return rows


def sizes(chosen: Options) -> list[int]:
    """What to measure; a part that is not named is the small one."""
    return [SHORT] if chosen.short else [int(part) for part in PARTS if part in (chosen.only or {"5000"})]


@contextlib.contextmanager
def kept(where: Path, chosen: Options) -> Iterator[tuple[RealLabelStudio, dict[int, int]]]:
    """A Label Studio whose data stay in that folder, and its filled projects by size; fills what is not there yet."""
    notes = where / "filled.json"
    known = json.loads(notes.read_text()) if notes.exists() else {"token": "", "filled": {}}
    studio = RealLabelStudio(where / "ls")
    studio.personal_token = known["token"]
    with studio, Driver(studio.base_url, studio.personal_token) as driver:
        known["token"] = studio.personal_token
        for size in sizes(chosen):
            if str(size) not in known["filled"]:
                known["filled"][str(size)] = [fill(driver, size), time.time()]
                notes.write_text(json.dumps(known))
        if not chosen.prepare:
            newest = max(at for _, at in known["filled"].values())
            time.sleep(max(0.0, newest + _SETTLED_S - time.time()))
        yield studio, {int(size): project for size, (project, _) in known["filled"].items()}


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS, rounds=3, folders=True)
    if chosen.folder is None:
        with folder() as where, RealLabelStudio(where / "ls") as studio:
            report("Sync with Label Studio", measured(studio, chosen), chosen)
        return
    with kept(chosen.folder, chosen) as (studio, filled):
        if not chosen.prepare:
            report("Sync with Label Studio", measured(studio, chosen, filled=filled), chosen)


if __name__ == "__main__":
    main()
