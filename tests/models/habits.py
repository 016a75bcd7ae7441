"""A plain class with the habits of many: weights in a module global, one constant version, a modulo, a key taken for
granted. Written for label-studio-ml 2.x; it knows nothing of ml_backend."""

import json
import os
import time
from collections import Counter
from pathlib import Path

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse

_model = None


class WordCounter(LabelStudioMLBase):
    EVERY = int(os.getenv("START_TRAINING_EACH_N_UPDATES", "4"))
    MODEL_DIR = Path(os.getenv("MODEL_DIR", "."))

    def setup(self):
        self.set("model_version", f"{self.__class__.__name__}-v0.0.1")

    def get_model(self):
        global _model  # noqa: PLW0603
        if _model is None:
            path = self.MODEL_DIR / "weights.json"
            _model = json.loads(path.read_text()) if path.exists() else {}
        return _model

    def predict(self, tasks, context=None, **kwargs):
        from_name, to_name, value = self.label_interface.get_first_tag_occurence("Choices", "Text")
        labels = sorted(self.label_interface.get_tag(from_name).labels)
        model = self.get_model()
        made = []
        for task in tasks:
            words = task["data"][value].split()
            votes = {label: sum(model.get(label, {}).get(word, 0) for word in words) for label in labels}
            best = max(labels, key=lambda label: votes[label])
            region = {"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": [best]}}
            region["meta"] = {"pid": os.getpid()}
            made.append({"result": [region], "score": float(votes[best]), "model_version": self.get("model_version")})
        return ModelResponse(predictions=made, model_version=self.get("model_version"))

    def fit(self, event, data, **kwargs):
        global _model  # noqa: PLW0603
        if event not in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "START_TRAINING"):
            return
        seen_path = self.MODEL_DIR / "seen.json"
        seen = json.loads(seen_path.read_text()) if seen_path.exists() else {}
        annotation = data["annotation"]  # also when somebody clicked Start Training
        label = annotation["result"][0]["value"]["choices"][0]
        seen[str(annotation["id"])] = [data["task"]["data"]["text"], label]
        seen_path.write_text(json.dumps(seen))
        with (self.MODEL_DIR / "order.txt").open("a") as order:
            order.write(f"{event} {annotation['id']} {os.getpid()}\n")
        while "wait" in data["task"]["data"]["text"] and (self.MODEL_DIR / "wait").exists():
            time.sleep(0.02)
        if "explode" in data["task"]["data"]["text"]:
            raise ValueError("out of words" + "\udcff" * ("oddly" in data["task"]["data"]["text"]))
        if len(seen) % self.EVERY != 0 and event != "START_TRAINING":
            return
        counts = {}
        for text, label in seen.values():
            counts.setdefault(label, Counter()).update(text.split())
        (self.MODEL_DIR / "weights.json").write_text(json.dumps(counts))
        _model = None
