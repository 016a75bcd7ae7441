"""A model whose library the worker loads before it forks; its version says whether that was so, and how it trained."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ml_backend import TrainingBackend, TrainingRun, TrainingSet

if TYPE_CHECKING:
    from pathlib import Path

LIBRARY = "wave"
"""Of the standard library; nothing imports it by chance."""


class PreloadingModel(TrainingBackend):
    """Predicts nothing."""

    preload = (LIBRARY,)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        (run.directory / "loaded").write_text(str(LIBRARY in sys.modules))
        (run.directory / "nice").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
        (run.directory / "leads").write_text(str(os.getsid(0) == os.getpid()))
        return None

    def load(self, directory: Path) -> None:
        """There is nothing to load."""

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return [[] for _ in tasks]
