"""Labels over Text with spaCy: a blank pipeline's named entity recognition.

Run it with ``uv run --with spacy ml-backend start spacy_ner.py``.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import spacy
from spacy.training import Example as SpacyExample
from spacy.util import filter_spans, minibatch

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet


class SpacyNer(TrainingBackend):
    """Spans of text; those of one text must not overlap."""

    preload = ("spacy",)  # imported once by the worker, so that a run starts at once

    def check(self, label_config: str) -> str | None:
        """It needs Labels over Text."""
        controls = self.for_config(label_config).controls
        return None if any(one.type == "Labels" for one in controls) else "it needs Labels over Text"

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """A few epochs, from the parent version's weights where there are any."""
        control = data.control("Labels")
        if control is None:
            raise NotTrainable("the label config has no Labels")
        nlp = spacy.load(run.previous / "pipeline") if run.previous else spacy.blank(run.params.get("language", "xx"))
        recognizer = nlp.get_pipe("ner") if "ner" in nlp.pipe_names else nlp.add_pipe("ner")
        for label in control.labels:
            recognizer.add_label(label)
        examples = []
        for example in data:
            document = nlp.make_doc(str(example.value(control.to[0].value)))
            spans = [
                document.char_span(
                    region["value"]["start"],
                    region["value"]["end"],
                    label=region["value"]["labels"][0],
                    alignment_mode="expand",
                )
                for region in example.newest(control.name)  # an empty list is a negative: nothing to find here
            ]
            entities = filter_spans([span for span in spans if span is not None])
            offsets = [(span.start_char, span.end_char, span.label_) for span in entities]
            examples.append(SpacyExample.from_dict(document, {"entities": offsets}))
        if not any(one.reference.ents for one in examples):
            raise NotTrainable("there is no labelled span yet")
        shuffle = random.Random(run.seed)  # noqa: S311 - an order, not a secret
        optimizer = nlp.resume_training() if run.previous else nlp.initialize(lambda: examples)
        losses: dict[str, float] = {}
        epochs = int(run.params.get("epochs", 10))
        for epoch in range(epochs):
            shuffle.shuffle(examples)
            losses = {}
            for batch in minibatch(examples, size=16):
                nlp.update(batch, sgd=optimizer, drop=0.2, losses=losses)
            run.progress((epoch + 1) / epochs, f"epoch {epoch + 1}, loss {losses['ner']:.1f}")
        nlp.to_disk(run.directory / "pipeline")
        return {"loss": float(losses["ner"])}

    def load(self, directory: Path) -> None:
        """Read the pipeline."""
        self.nlp = spacy.load(directory / "pipeline")

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Entities with their offsets in characters."""
        control = next(one for one in self.controls if one.type == "Labels")
        texts = [str(task["data"].get(control.to[0].key or "", "")) for task in tasks]
        return [
            {
                "result": [
                    {
                        "from_name": control.name,
                        "to_name": control.to[0].name,
                        "type": "labels",
                        "value": {
                            "start": entity.start_char,
                            "end": entity.end_char,
                            "text": entity.text,
                            "labels": [entity.label_],
                        },
                    }
                    for entity in document.ents
                ]
            }
            for document in self.nlp.pipe(texts)
        ]
