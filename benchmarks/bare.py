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


if "BARE_VERSION" in os.environ:
    from pathlib import Path

    from model.text_classifier import TextClassifier

    _model = TextClassifier(label_config=Path(os.environ["BARE_CONFIG"]).read_text())
    _model.load(Path(os.environ["BARE_VERSION"]))

    @app.post("/predict")
    def predict() -> object:
        return jsonify(results=_model.predict(request.get_json()["tasks"]))
