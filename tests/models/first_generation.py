"""A plain class written for label-studio-ml 1.x: files in a workdir, found again through what fit returned."""

import json
from pathlib import Path

from label_studio_ml.model import LabelStudioMLBase


class Remembering(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.from_name, control = next(iter(self.parsed_label_config.items()))
        self.to_name = control["to_name"][0]
        self.labels = control["labels"]
        self.best = self.labels[-1]
        if self.train_output:
            self.best = json.loads(Path(self.train_output["path"]).read_text())["best"]

    def predict(self, tasks, **kwargs):
        region = {"from_name": self.from_name, "to_name": self.to_name, "type": "choices"}
        return [{"result": [{**region, "value": {"choices": [self.best]}}], "score": 0.5} for _ in tasks]

    def fit(self, tasks, workdir=None, **kwargs):
        assert list(tasks) == []
        path = Path(workdir) / "best.json"
        label = kwargs["data"]["annotation"]["result"][0]["value"]["choices"][0]
        path.write_text(json.dumps({"best": label}))
        return {"path": str(path)}
