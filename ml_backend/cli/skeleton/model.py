"""A model that learns from annotations: it counts which words go with which choice. Make it yours."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import Control, TrainingRun, TrainingSet


class MyModel(TrainingBackend):
    """For label configs with Choices over Text."""

    def check(self, label_config: str) -> str | None:
        """Why this label config is not supported, for people to read; None when it is."""
        return None if self.for_config(label_config).control else "it needs Choices over Text"

    @property
    def control(self) -> Control | None:
        """The tag of the label config that this model predicts."""
        fits = (one for one in self.controls if one.type == "Choices" and any(to.type == "Text" for to in one.to))
        return next(fits, None)

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """Runs in a worker. Read `data` as often as you like; write all that `load` needs below `run.directory`.

        `run.previous` is the folder of the version before (or None): begin from its weights if your model can.
        `run.params` is what people typed into "extra params" when they connected this backend.
        """
        control = self.control
        if control is None:
            raise NotTrainable("the label config has no Choices over Text")
        counted: dict[str, Counter[str]] = {label: Counter() for label in control.labels}
        for number, example in enumerate(data):
            # What most annotators chose. `example.results()` has Label Studio's regions as they are.
            for label in example.majority(control.name):
                counted.setdefault(label, Counter()).update(words(example.value(control.to[0].value)))
            run.progress((number + 1) / len(data), "counting words")  # also stops here when somebody cancels
        if sum(1 for seen in counted.values() if seen) < 2:
            # Not a failure: people see the reason, and the next annotation tries again.
            raise NotTrainable("it needs annotations of at least two choices")
        (run.directory / "words.json").write_text(json.dumps(counted), encoding="utf-8")
        return {"words": float(len(set().union(*counted.values())))}  # shown beside the version

    def load(self, directory: Path) -> None:
        """Read what `train` wrote; once per version and process, before it serves."""
        self.counted = json.loads((directory / "words.json").read_text(encoding="utf-8"))

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002 - Label Studio's own form
        """One prediction for each task; an empty list for a task without one."""
        control = self.control
        if control is None:
            return [[] for _ in tasks]
        answers = []
        for task in tasks:
            seen = words(task["data"].get(control.to[0].key or ""))
            # One word more for each label, so that none is impossible.
            weights = {
                label: 1 + sum(self.counted.get(label, {}).get(word, 0) for word in seen) for label in control.labels
            }
            best = max(weights, key=lambda label: weights[label])
            sure = weights[best] / sum(weights.values())
            region = {
                "from_name": control.name,
                "to_name": control.to[0].name,
                "type": "choices",
                "value": {"choices": [best]},
                "score": sure,  # shown beside the region
            }
            # The prediction's own score is the order: with uncertainty sampling the lowest is annotated first.
            answers.append({"result": [region], "score": sure})
        return answers


def words(text: object) -> list[str]:
    """The words of a text, in lower case."""
    return str(text or "").lower().split()
