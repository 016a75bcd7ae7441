"""A model that keeps the ids it was trained on, in a process that stops wherever the test says.

The folder in TEST_GATES is how the test and the training process talk: ``stop-at`` names a gate, ``at-<gate>`` says
which process stands there, and ``journal`` gets a line from everybody who passes one. A gate stands between any two
steps of a run; it neither looks at the lease nor reports anything, like training code that is busy.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend import TrainingBackend, TrainingRun, TrainingSet
from ml_backend.registry.aliases import Aliases
from ml_backend.registry.storage import FolderStorage
from ml_backend.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable

GATES = (
    "started",
    "sync",
    "snapshot",
    "train",
    "training",
    "compare",
    "publish",
    "stored",
    "commit",
    "committed",
    "promote",
    "promoted",
    "finish",
    "finished",
)
"""In the order in which a run passes them: between its lease and its keeper, before each phase, inside `train`, around
the files, the manifest and the alias, before and after its end is written."""


_SPAWNED_HORSE = Path(sys.argv[0]).parent.name == "worker"
"""Whether this is ``python -m ml_backend.worker``. A forked horse is a copy of a process that is something else."""
_NO_HORSE = None if _SPAWNED_HORSE else os.getpid()


def gate(name: str) -> None:
    if os.getpid() == _NO_HORSE:
        return  # the worker, which speaks for a dead horse
    folder = Path(os.environ["TEST_GATES"])
    with (folder / "journal").open("a") as journal:
        journal.write(f"{time.time():.6f} {os.getpid()} {name}\n")
    if _wanted(folder) == name:
        fresh = folder / f"fresh-{os.getpid()}"
        fresh.write_text(str(os.getpid()))
        fresh.rename(folder / f"at-{name}")
        while _wanted(folder) == name:
            time.sleep(0.01)


def _wanted(folder: Path) -> str:
    try:
        return (folder / "stop-at").read_text()
    except FileNotFoundError:
        return ""


class GatedModel(TrainingBackend):
    """Predicts nothing; its version is the list of the annotations that it saw."""

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        seen = sorted(annotation.id for example in data for annotation in example.annotations)
        gate("training")
        seconds = float(os.environ.get("TEST_TRAIN_SECONDS", "0"))
        for step in range(int(seconds / 0.02)):
            run.progress(step * 0.02 / seconds, f"step {step}")
            time.sleep(0.02)
        (run.directory / "seen.json").write_text(json.dumps(seen))
        (run.directory / "more.json").write_text("[]")
        return None

    def load(self, directory: Path) -> None:
        self.seen = json.loads((directory / "seen.json").read_text())

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return [[] for _ in tasks]


def _gated(owner: type, name: str, before: str = "", after: str = "", *, refusal: object = None) -> None:
    plain: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(plain)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before:
            gate(before)
        answer = plain(*arguments, **named)
        if after and answer is not refusal:
            gate(after)
        return answer

    setattr(owner, name, wrapped)


def _gate_phases() -> None:
    plain = Runs.progress
    last = [""]

    @functools.wraps(plain)
    def progress(self: Runs, lease: Any, phase: str, *rest: Any) -> bool:
        if phase != last[0]:
            last[0] = phase
            gate(phase)
        return plain(self, lease, phase, *rest)

    Runs.progress = progress  # type: ignore[method-assign]


def _put_gates() -> None:
    """Only in processes that the test started for this; a horse begins as a copy of its worker, or anew (spawned)."""
    _gate_phases()
    _gated(Runs, "start", after="started")
    _gated(Runs, "finish", before="finish", after="finished")
    _gated(FolderStorage, "put", after="stored")
    _gated(FolderStorage, "commit", before="commit", after="committed", refusal=False)
    _gated(Aliases, "move", after="promoted")


if "TEST_GATES" in os.environ:
    _put_gates()
