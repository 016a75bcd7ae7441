"""Runs in the peer's environment: a text model for label-studio-ml 1.0.9 with the official example's pipeline.

Usage there: python peer_model.py <folder> trains from <folder>/rows.json; gunicorn serves ``peer_model:app``.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("PEER_FOLDER") or sys.argv[1])


def train() -> None:
    """Fit the pipeline and leave it where 1.0.9 looks for the result of its newest job."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = zip(*json.loads((FOLDER / "rows.json").read_text()), strict=True)
    fitted = make_pipeline(TfidfVectorizer(ngram_range=(1, 3)), LogisticRegression(C=10)).fit(texts, labels)
    job = FOLDER / "models" / "1"
    job.mkdir()
    (job / "model.pickle").write_bytes(pickle.dumps(fitted))
    (job / "job_result.json").write_text(json.dumps({"file": str(job / "model.pickle")}))


if __name__ == "__main__":
    train()
else:
    from label_studio_ml.api import init_app
    from label_studio_ml.model import LabelStudioMLBase

    class TextModel(LabelStudioMLBase):
        """Loads the pipeline when 1.0.9 makes an instance; its fit does nothing, so that only the way to it is seen."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            file = self.train_output.get("file")
            self.pipeline = pickle.loads(Path(file).read_bytes()) if file else None

        def predict(self, tasks, **kwargs):
            sure = self.pipeline.predict_proba([task["data"]["text"] for task in tasks])
            labels = self.pipeline.classes_[sure.argmax(axis=1)].tolist()
            return [
                {
                    "result": [
                        {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
                    ],
                    "score": score,
                }
                for label, score in zip(labels, sure.max(axis=1).tolist(), strict=True)
            ]

        def fit(self, tasks, workdir=None, **kwargs):
            return {}

    app = init_app(
        TextModel,
        model_dir=str(FOLDER / "models"),
        redis_host="127.0.0.1",
        redis_port=int(os.environ.get("PEER_REDIS_PORT", "6379")),
    )
