"""A model that counts words of each choice: enough to see a version learn."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from ml_backend import NotTrainable, TrainingBackend, TrainingRun, TrainingSet

if TYPE_CHECKING:
    from pathlib import Path


class CountingModel(TrainingBackend):
    """Predicts the choice whose examples share most words with the text."""

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        words: dict[str, Counter[str]] = defaultdict(Counter)
        control = data.controls[0]
        for example in data:
            for label in example.majority(control.name):
                words[label].update(str(example.value(control.to[0].value)).lower().split())
        if len(words) < 2:
            raise NotTrainable("it needs examples of two choices")
        run.progress(0.5, "counted")
        (run.directory / "words.json").write_text(json.dumps(words))
        return None

    def load(self, directory: Path) -> None:
        self.words: dict[str, dict[str, int]] = json.loads((directory / "words.json").read_text())

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        control = self.controls[0]
        key = control.to[0].key or "text"
        made = []
        for task in tasks:
            text = str(task["data"][key]).lower().split()
            scores = {label: 1 + sum(known.get(word, 0) for word in text) for label, known in self.words.items()}
            best = max(scores, key=lambda label: scores[label])
            region = {
                "from_name": control.name,
                "to_name": control.to[0].name,
                "type": "choices",
                "value": {"choices": [best]},
            }
            made.append({"result": [{**region, "score": scores[best] / sum(scores.values())}], "score": 0.5})
        return made
