"""A model whose ranks anybody can foretell, from the task's number and how many examples the version learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_backend import TrainingBackend, TrainingRun, TrainingSet

CHOICES = ("even", "odd")
PRIME = 10007


def rank(number: int, learned: int) -> float:
    """The score of task ``number`` by a version that learned from ``learned`` examples; no two tasks share one."""
    return (number + 1) * pow(5, learned, PRIME) % PRIME / PRIME


class Shuffling(TrainingBackend):
    """Answers whether the number in the text is even; a second version hands tasks out in quite another order."""

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        (run.directory / "learned.txt").write_text(str(len(data)))
        return None

    def load(self, directory: Path) -> None:
        self.learned = int((directory / "learned.txt").read_text())

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        control = self.controls[0]
        made = []
        for task in tasks:
            number = int(str(task["data"]["text"]).split()[-1])
            region = {
                "from_name": control.name,
                "to_name": control.to[0].name,
                "type": "choices",
                "value": {"choices": [CHOICES[number % 2]]},
                "score": 0.9,
            }
            made.append({"result": [region], "score": rank(number, self.learned)})
        return made
