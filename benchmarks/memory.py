"""Memory: a web process without a model and with one, a worker at rest, and Redis for each annotation.

Resident sizes, as ``ps`` shows them; what processes share is counted in each. Linux only. What labels by webhook leave
behind and what the model adds are rows of their own. The model alone is what a bare process grows by; both kinds of
process have handed back what they had free before and after, or importing into that would seem to cost nothing.
Usage: python -m benchmarks.memory [--json] [--short]
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import redis

from benchmarks.banking77 import Questions
from benchmarks.common import ROOT, Options, Row, environment, folder, options, report
from benchmarks.fed import FedBackend, annotated
from benchmarks.load import ask
from benchmarks.processes import command, memory_mb, settled, tree
from tests.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WEB_MB, WORKER_MB, ANNOTATION_BYTES, MODEL_FACTOR = 120, 90, 700, 1.1

_GROWTH = """
import sys
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
before = resident()
{work}
print(resident() - before)
"""
_LOAD = """
from pathlib import Path
from ml_backend import heap
from model.auto import AutoModel
model = AutoModel(label_config=Path(sys.argv[1]).read_text())
heap.give_back()
before = resident()
model.load(Path(sys.argv[2]))
model.predict([{"id": 1, "data": {"text": "where is my card"}}])
heap.give_back()
"""
_PRELOAD = """
import importlib
from ml_backend.models import find_model
found = find_model(None)
before = resident()
for name in getattr(found, "preload", ()):
    importlib.import_module(name)
"""


def growth_mb(work: str, *arguments: str) -> float:
    """By how much a bare Python process grows with some work, in MB."""
    argv = [sys.executable, "-c", _GROWTH.format(work=work), *arguments]
    told = environment({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return float(subprocess.run(argv, check=True, capture_output=True, text=True, env=told).stdout)


def processes_of(backend: FedBackend, wanted: str) -> list[int]:
    """The processes whose command line ends so, those without children only."""
    assert backend.process is not None
    return [pid for pid in tree(backend.process.pid) if command(pid).endswith(wanted) and len(tree(pid)) == 1]


def resident(pids: Sequence[int]) -> dict[int, float]:
    """What each holds, in MB."""
    return {pid: memory_mb(pid)[0] for pid in pids}


def grown(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """By how much the one grew that grew the most."""
    return max(after[pid] - before[pid] for pid in before)


def redis_bytes(backend: FedBackend, questions: Questions, size: int) -> float:
    """What each of ``size`` annotations takes in Redis, the task that it brings included."""
    with redis.Redis(unix_socket_path=str(socket_of(backend))) as client:
        before = int(client.info("memory")["used_memory"])
        rows = [questions.train[number % len(questions.train)] for number in range(size)]
        for at in range(0, size, 500):
            body = annotated(100_000 + at, rows[at : at + 500], backend.config)
            if ask(backend.port, "POST", "/webhook", body)[0] != 200:
                raise RuntimeError("an event was refused")
        return (int(client.info("memory")["used_memory"]) - before) / size


def socket_of(backend: FedBackend) -> Path:
    """The private Valkey's socket."""
    from ml_backend.embedded import PrivateValkey

    return PrivateValkey(backend.data_dir / "valkey").socket_path


def measured(chosen: Options) -> list[Row]:
    """One backend, looked at before and after its first version."""
    questions = Questions.read(intents=5 if chosen.short else None)
    size, many = (50, 500) if chosen.short else (5_000, 10_000)
    # One label more than are looked at before the first version.
    with folder() as where, FedBackend(where, questions.labels, size + 1) as backend:
        assert backend.process is not None
        backend.feed(questions.train[:10])
        for _ in range(20):
            backend.served()
        if not chosen.short:
            settled(backend.process.pid)
        web = wait_until(lambda: processes_of(backend, "processes web"), 10, "web processes")
        worker = wait_until(lambda: processes_of(backend, "work train"), 10, "a worker")
        without, at_rest = resident(web), max(resident(worker).values())
        backend.feed(questions.train[10:size])
        if not chosen.short:
            settled(backend.process.pid)
        fed = resident(web)
        backend.feed(questions.train[size : size + 1])
        backend.wait_for_version()
        for _ in range(20):
            backend.predict([text for text, _ in questions.test[:5]])
        if not chosen.short:
            settled(backend.process.pid)
        with_model = resident(web)
        (where / "config.xml").write_text(backend.config)
        model = growth_mb(_LOAD, str(where / "config.xml"), str(backend.version_folder))
        libraries = growth_mb(_PRELOAD)
        each = redis_bytes(backend, questions, many)
    allowed = MODEL_FACTOR * model
    return [
        _row("web process without a model", max(without.values()), "MB", WEB_MB, "label-studio-ml 2.x: 170 MB"),
        Row(f"web process: what {size:,} labels by webhook leave behind", grown(without, fed), "MB"),
        _row(
            "web process: what the model adds",
            grown(fed, with_model),
            "MB",
            allowed,
            f"by itself: {model:.1f} MB",
        ),
        Row("web process with a model, all in all", max(with_model.values()), "MB"),
        _row(
            "worker at rest",
            at_rest,
            "MB",
            WORKER_MB + libraries,
            f"{WORKER_MB} MB and the preloaded libraries, {libraries:.0f} MB",
        ),
        _row("Redis for each annotation, with its task", each, "B", ANNOTATION_BYTES, f"{many:,} of BANKING77"),
    ]


def _row(what: str, value: float, unit: str, most: float, note: str) -> Row:
    return Row(what, value, unit, goal=f"<= {most:.0f} {unit}", met=value <= most, note=note)


def main() -> None:
    """The command."""
    chosen = options(__doc__, rounds=1)
    report("Memory", measured(chosen), chosen)


if __name__ == "__main__":
    main()
