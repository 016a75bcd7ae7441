"""Choices over Text with scikit-learn: TF-IDF and logistic regression, stored with skops (nothing is unpickled)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet


class SklearnText(TrainingBackend):
    """One label for each text."""

    def check(self, label_config: str) -> str | None:
        """It needs Choices over Text."""
        choices = [one for one in self.for_config(label_config).controls if one.type == "Choices"]
        return None if choices and choices[0].to[0].type == "Text" else "it needs Choices over Text"

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """Fit on what most annotators chose."""
        control = data.controls[0]
        texts, labels = [], []
        for example in data:
            chosen = example.majority(control.name)
            if chosen:  # an empty annotation says nothing about a single choice
                texts.append(str(example.value(control.to[0].value)))
                labels.append(chosen[0])
        if len(set(labels)) < 2:
            raise NotTrainable("it needs annotations of at least two choices")
        # What people typed into "extra params" when they connected the backend: {"C": 3}
        strength = float(run.params.get("C", 10.0))
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=strength, max_iter=1000, random_state=run.seed),
        )
        run.progress(0.1, f"{len(texts)} texts")
        pipeline.fit(texts, labels)
        skops.io.dump(pipeline, run.directory / "pipeline.skops")
        return {"training accuracy": float(pipeline.score(texts, labels))}

    def load(self, directory: Path) -> None:
        """Read the pipeline. Types that skops does not know as harmless are refused: name yours in ``trusted``."""
        self.pipeline = skops.io.load(directory / "pipeline.skops", trusted=[])

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """The likeliest label, and the margin to the next as the order in which to annotate."""
        control = self.controls[0]
        texts = [str(task["data"].get(control.to[0].key or "", "")) for task in tasks]
        answers = []
        for chances in self.pipeline.predict_proba(texts):
            order = np.argsort(chances)[::-1]
            region = {
                "from_name": control.name,
                "to_name": control.to[0].name,
                "type": "choices",
                "value": {"choices": [str(self.pipeline.classes_[order[0]])]},
                "score": float(chances[order[0]]),
            }
            answers.append({"result": [region], "score": float(chances[order[0]] - chances[order[1]])})
        return answers
