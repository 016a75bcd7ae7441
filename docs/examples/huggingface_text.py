"""Choices over Text with a Hugging Face model: fine-tuned once, then warm-started from the version before.

Run it with ``uv run --with transformers --with torch --with accelerate ml-backend start huggingface_text.py``, on a GPU
with ``ML_BACKEND_WORKER=spawn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet

BASE = "distilbert-base-multilingual-cased"


class HuggingFaceText(TrainingBackend):
    """One label for each text."""

    preload = ("torch", "transformers")

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """A first version starts from the base model, a later one from its parent, and mostly with what changed."""
        control = data.control("Choices")
        if control is None:
            raise NotTrainable("the label config has no Choices")
        labels = list(control.labels)
        rows = [
            (str(example.value(control.to[0].value)), labels.index(chosen[0]), example.id in data.changes)
            for example in data
            if (chosen := example.majority(control.name)) and chosen[0] in labels
        ]
        if len({label for _, label, _ in rows}) < 2:
            raise NotTrainable("it needs annotations of at least two choices")
        set_seed(run.seed)
        start, warm = self._start(run, labels)
        if warm:
            # Rehearse one old example for each new one: the model must not forget.
            fresh = [row for row in rows if row[2]]
            rows = fresh + [row for row in rows if not row[2]][: len(fresh)] or rows
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForSequenceClassification.from_pretrained(
            start, id2label=dict(enumerate(labels)), label2id={label: at for at, label in enumerate(labels)}
        )
        encoded = tokenizer([text for text, _, _ in rows], truncation=True, max_length=256)
        items = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, (_, label, _) in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)
        ]
        arguments = TrainingArguments(
            output_dir=str(run.directory / "scratch"),
            num_train_epochs=float(run.params.get("epochs", 1 if warm else 3)),
            learning_rate=float(run.params.get("learning_rate", 2e-5)),
            per_device_train_batch_size=16,
            save_strategy="no",
            report_to=[],
            seed=run.seed,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=items, processing_class=tokenizer, callbacks=[Watched(run)]
        )
        outcome = trainer.train()
        trainer.save_model(str(run.directory / "model"))  # the tokenizer goes with it
        return {"loss": float(outcome.training_loss)}

    def _start(self, run: TrainingRun, labels: list[str]) -> tuple[str, bool]:
        if run.previous is not None:
            before = AutoConfig.from_pretrained(run.previous / "model").id2label
            if [before[at] for at in sorted(before)] == labels:
                return str(run.previous / "model"), True
        return str(run.params.get("base", BASE)), False

    def load(self, directory: Path) -> None:
        """Read model and tokenizer."""
        self.tokenizer = AutoTokenizer.from_pretrained(directory / "model")
        self.model = AutoModelForSequenceClassification.from_pretrained(directory / "model").eval()

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """The likeliest label, and the margin to the next as the order in which to annotate."""
        control = next(one for one in self.controls if one.type == "Choices")
        texts = [str(task["data"].get(control.to[0].key or "", "")) for task in tasks]
        batch = self.tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
        with torch.inference_mode():
            chances = self.model(**batch).logits.softmax(-1)
        answers = []
        for row in chances:
            best = row.topk(2)
            region = {
                "from_name": control.name,
                "to_name": control.to[0].name,
                "type": "choices",
                "value": {"choices": [self.model.config.id2label[int(best.indices[0])]]},
                "score": float(best.values[0]),
            }
            answers.append({"result": [region], "score": float(best.values[0] - best.values[1])})
        return answers


class Watched(TrainerCallback):  # type: ignore[misc]  # transformers has no types for this
    """Shows how far the training is, and stops it when somebody cancels the run."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """After each step."""
        self.run.progress(state.global_step / max(1, state.max_steps), f"step {state.global_step}")
