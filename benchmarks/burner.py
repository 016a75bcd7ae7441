"""A model whose training keeps a core busy for a long time, as a real one does: to measure what others feel of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ml_backend import TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet

LONGEST_S = 120.0


class Burner(TrainingBackend):
    """Fits the same small classifier again and again until it is cancelled or two minutes are over."""

    def train(self, data: TrainingSet, run: TrainingRun) -> None:
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        random = np.random.default_rng(0)
        rows, labels = random.random((2000, 100)), random.integers(0, 5, 2000)
        until = time.monotonic() + LONGEST_S
        # One core, whatever this machine has: threads that wait for each other in a loop would take all of them.
        with threadpool_limits(1):
            while time.monotonic() < until and not run.cancelled:
                LogisticRegression(max_iter=20).fit(rows, labels)
                run.progress(0.5, "burning")
        (run.directory / "nothing").write_bytes(b"")

    def load(self, directory: Path) -> None:
        (directory / "nothing").stat()

    def predict(self, tasks: list[dict[str, Any]], *_: Any, **__: Any) -> list[Any]:
        return [[] for _ in tasks]
