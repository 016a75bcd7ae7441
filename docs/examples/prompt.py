"""A prompt that is "trained" from corrections: each version is a text file with the examples that taught most.

It asks any server that speaks OpenAI's chat completions; where it is, the connection's extra params say:
``{"url": "http://localhost:11434/v1/chat/completions", "model": "llama3.2", "shots": 12}``.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING, Any

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import Example, TrainingRun, TrainingSet


class Prompt(TrainingBackend):
    """Choices over Text, by a large language model."""

    def check(self, label_config: str) -> str | None:
        """It needs Choices over Text."""
        controls = self.for_config(label_config).controls
        return None if controls and controls[0].type == "Choices" else "it needs Choices over Text"

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """Pick examples: corrections first, the labels in turn, the newest before older ones."""
        control = data.controls[0]
        by_label: dict[str, list[Example]] = {}
        for example in data:
            for label in example.majority(control.name)[:1]:
                by_label.setdefault(label, []).append(example)
        if not by_label:
            raise NotTrainable("there is no annotation to learn from")
        for examples in by_label.values():
            # What began as a prediction of ours and is stored differently was a mistake: it teaches most.
            examples.sort(key=lambda one: (one.from_prediction, one.annotations[-1].updated_at_us), reverse=True)
        wanted = int(run.params.get("shots", 12))
        shots: list[tuple[str, str]] = []
        while len(shots) < wanted and any(by_label.values()):
            for label, examples in by_label.items():
                if examples and len(shots) < wanted:
                    shots.append((str(examples.pop(0).value(control.to[0].value)), label))
        lines = ["Answer with exactly one of these labels: " + ", ".join(control.labels) + "."]
        lines += [f"\nText: {text}\nLabel: {label}" for text, label in shots]
        (run.directory / "prompt.txt").write_text("\n".join(lines), encoding="utf-8")
        return {"examples": float(len(shots))}

    def load(self, directory: Path) -> None:
        """Read the prompt: a version is something that a person can read, compare and roll back."""
        self.prompt = (directory / "prompt.txt").read_text(encoding="utf-8")

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """What the language model answers, where it is one of the labels."""
        control = self.controls[0]
        answers: list[Any] = []
        for task in tasks:
            said = self.ask(f"{self.prompt}\n\nText: {task['data'].get(control.to[0].key or '', '')}\nLabel:")
            label = next((one for one in control.labels if one.lower() == said.strip().rstrip(".").lower()), None)
            region = {"from_name": control.name, "to_name": control.to[0].name, "type": "choices"}
            answers.append({"result": [{**region, "value": {"choices": [label]}}]} if label else [])
        return answers

    def ask(self, prompt: str) -> str:
        """One completion."""
        body = {
            "model": self.extra_params.get("model", "llama3.2"),
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        }
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's
            self.extra_params["url"],
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('LLM_API_KEY', '')}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(json.load(answer)["choices"][0]["message"]["content"])
