"""AutoModel: the shipped model that fits a project's label config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_backend import NotTrainable, TrainingBackend
from model.text_classifier import TextClassifier

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet


class AutoModel(TrainingBackend):
    """Hands everything to the first shipped model that supports the label config."""

    preload = TextClassifier.preload
    shipped: tuple[type[TrainingBackend], ...] = (TextClassifier,)

    def _chosen(self) -> TrainingBackend:
        for kind in self.shipped:
            candidate = kind(self.project_id, self.label_config, extra_params=self.extra_params)
            if candidate.check(self.label_config) is None:
                return candidate
        raise NotTrainable(self.check(self.label_config) or "no shipped model fits this label config")

    def check(self, label_config: str) -> str | None:
        """Why none of the shipped models supports the config."""
        reasons = [why for kind in self.shipped if (why := kind().check(label_config)) is not None]
        return None if len(reasons) < len(self.shipped) else "; ".join(reasons)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """As the chosen model does."""
        return self._chosen().train(data, run)

    def load(self, directory: Path) -> None:
        """Load the chosen model's files."""
        self._loaded = self._chosen()
        self._loaded.load(directory)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        """As the loaded model does, under this instance's label config."""
        return self._loaded.for_config(self.label_config).predict(tasks, context, **kwargs)
