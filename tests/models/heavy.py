"""A model of the kind that must stay out of web processes: its library is heavy, and some texts bring it down."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import heavy_library  # type: ignore[import-not-found]  # made by the test, beside this file

from ml_backend import TrainingBackend, TrainingRun, TrainingSet


class HeavyModel(TrainingBackend):
    """Says ``good`` of everything."""

    def check(self, label_config: str) -> str | None:
        return None if "<Choices" in label_config else "it has no Choices"

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        (run.directory / "seen").write_text(str(len(data)))
        return None

    def load(self, directory: Path) -> None:
        self.weights = heavy_library.WEIGHTS

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return [self._one(str(task["data"]["text"]), context) for task in tasks]

    def _one(self, text: str, context: dict[str, Any] | None) -> dict[str, Any]:
        if text == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "stuck":
            Path(heavy_library.__file__).with_name("stuck").touch()
            time.sleep(60)
        region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": ["good"]}}
        return {"result": [{**region, "meta": {"text": text, **(context or {})}}], "score": 0.5}
