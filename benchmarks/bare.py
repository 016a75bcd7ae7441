"""Bare Flask, the limit of what HTTP can be here: views that do no more than the comparison needs."""

from __future__ import annotations

import os

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/health")
def health() -> object:
    return jsonify(status="UP")


@app.post("/webhook")
def webhook() -> object:
    request.get_json()
    return jsonify(status="ok")


@app.post("/setup")
def setup() -> object:
    request.get_json()
    return jsonify(model_version="m")


if "BARE_MODEL" in os.environ:
    import pickle
    from pathlib import Path

    _pipeline = pickle.loads(Path(os.environ["BARE_MODEL"]).read_bytes())

    @app.post("/predict")
    def predict() -> object:
        texts = [task["data"]["text"] for task in request.get_json()["tasks"]]
        sure = _pipeline.predict_proba(texts)
        labels = _pipeline.classes_[sure.argmax(axis=1)]
        results = []
        for label, score in zip(labels.tolist(), sure.max(axis=1).tolist(), strict=True):
            region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
            results.append({"result": [region], "score": score, "model_version": "m"})
        return jsonify(results=results)
