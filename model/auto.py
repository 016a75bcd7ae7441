"""AutoModel: the shipped models that fit a project's label config, each for the control tags that it supports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ml_backend import NotTrainable, TrainingBackend
from model.box_detector import BoxDetector
from model.shipped import Shipped, why_none
from model.span_tagger import SpanTagger
from model.text_classifier import TextClassifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ml_backend import Control, TrainingRun, TrainingSet

# Beside the files of the models, whose names differ: which of them are in this version.
_MODELS = "auto.json"


class AutoModel(TrainingBackend):
    """Hands each control tag to the shipped model that supports it; leaves other control tags alone."""

    shipped: tuple[type[Shipped], ...] = (TextClassifier, SpanTagger, BoxDetector)
    preload = tuple(dict.fromkeys(module for kind in shipped for module in kind.preload))
    _loaded: tuple[Shipped, ...] = ()

    def check(self, label_config: str) -> str | None:
        """Why none of the shipped models supports anything in the config: one reason for each control tag."""
        by_type = {kind.control_type: kind for kind in self.shipped}
        known = " and ".join(", ".join(by_type).rsplit(", ", 1))

        def why_not(control: Control) -> str | None:
            kind = by_type.get(control.type)
            return kind.why_not(control) if kind else f"is {control.type}, and the shipped models predict {known}"

        return why_none(type(self)(label_config=label_config).controls, why_not, known)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float]:
        """As each fitting model does; one that cannot train yet is left out while another can.

        Raises `NotTrainable` when none can.
        """
        fitting = self._fitting(self.label_config)
        trained: list[str] = []
        metrics: dict[str, float] = {}
        reasons: list[str] = []
        for at, kind in enumerate(fitting):
            try:
                found = self._new(kind).train(data, _Part(run, at / len(fitting), 1 / len(fitting))) or {}
            except NotTrainable as why:
                reasons.append(str(why))
                continue
            trained.append(kind.__name__)
            metrics |= {f"{kind.__name__}.{key}" if len(fitting) > 1 else key: value for key, value in found.items()}
        if not trained:
            raise NotTrainable("; ".join(reasons) or self.check(self.label_config) or "there is nothing to train")
        (run.directory / _MODELS).write_text(json.dumps(trained), encoding="ascii")
        return metrics

    def load(self, directory: Path) -> None:
        """Load the files of the models in this version. Raises what they raise."""
        names = json.loads((directory / _MODELS).read_text(encoding="ascii"))
        self._loaded = tuple(self._new(kind) for kind in self.shipped if kind.__name__ in names)
        for model in self._loaded:
            model.load(directory)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """What each loaded model says under this instance's label config, with the lowest of their scores."""
        answers: list[Any] = [[] for _ in tasks]
        for model in self._loaded:
            said = model.for_config(self.label_config).predict(tasks, context, **kwargs)
            for place, one in enumerate(said):
                if one and answers[place]:
                    both = answers[place]["result"] + one["result"]
                    answers[place] = {"result": both, "score": min(answers[place]["score"], one["score"])}
                elif one:
                    answers[place] = one
        return answers

    def _fitting(self, label_config: str) -> list[type[Shipped]]:
        controls = type(self)(label_config=label_config).controls
        return [kind for kind in self.shipped if any(kind.why_not(control) is None for control in controls)]

    def _new(self, kind: type[Shipped]) -> Shipped:
        made = kind(self.project_id, self.label_config, extra_params=self.extra_params)
        return made if self._fetch is None else made.fetching(self._fetch)


class _Part:
    """One model's part of a run: the whole one, but for how far it is."""

    def __init__(self, whole: TrainingRun, begin: float, share: float) -> None:
        self.directory, self.params, self.seed = whole.directory, whole.params, whole.seed
        self._whole, self._begin, self._share = whole, begin, share

    @property
    def previous(self) -> Path | None:
        """Asked for only when the model asks: whoever reads it counts as having begun from these files."""
        return self._whole.previous

    @property
    def cancelled(self) -> bool:
        """Whether the whole run should stop."""
        return self._whole.cancelled

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the whole run is."""
        self._whole.progress(self._begin + self._share * fraction, message)

    def left_out(self, control: str, task: int, result: Sequence[dict[str, Any]]) -> None:
        """Report it for the whole run."""
        self._whole.left_out(control, task, result)
