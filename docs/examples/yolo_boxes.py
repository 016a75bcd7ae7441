"""RectangleLabels over Image with Ultralytics YOLO, warm-started from the version before.

Run it with ``uv run --with ultralytics ml-backend start yolo_boxes.py``; images come from Label Studio, so
``LABEL_STUDIO_URL`` and ``LABEL_STUDIO_API_KEY`` must be set. Ultralytics is AGPL-3.0.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from ultralytics import YOLO

from ml_backend import NotTrainable, TrainingBackend

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet


class YoloBoxes(TrainingBackend):
    """Boxes; rotated ones are taken by their upright outline."""

    preload = ("ultralytics",)

    def check(self, label_config: str) -> str | None:
        """It needs RectangleLabels over Image."""
        controls = self.for_config(label_config).controls
        return None if any(one.type == "RectangleLabels" for one in controls) else "it needs RectangleLabels over Image"

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """Write the data set as YOLO reads it, then train."""
        control = data.control("RectangleLabels")
        if control is None:
            raise NotTrainable("the label config has no RectangleLabels")
        names = list(control.labels)
        scratch = run.directory / "scratch"
        for folder in ("images", "labels"):
            (scratch / folder).mkdir(parents=True)
        boxes = 0
        for number, example in enumerate(data):
            image = example.path(control.to[0].value)
            shutil.copy(image, scratch / "images" / f"{example.id}{image.suffix}")
            lines = []
            for region in example.newest(control.name):
                value = region["value"]  # x, y, width and height in percent, from the upper left corner
                label = value["rectanglelabels"][0]
                if label in names:
                    middle = value["x"] + value["width"] / 2, value["y"] + value["height"] / 2
                    numbers = [one / 100 for one in (*middle, value["width"], value["height"])]
                    lines.append(" ".join([str(names.index(label)), *(f"{one:.6f}" for one in numbers)]))
            boxes += len(lines)
            # An image without boxes gets an empty file: it is a negative.
            (scratch / "labels" / f"{example.id}.txt").write_text("\n".join(lines), encoding="utf-8")
            run.progress(0.2 * (number + 1) / len(data), "fetching images")
        if not boxes:
            raise NotTrainable("there is no box yet")
        described = {"path": str(scratch), "train": "images", "val": "images", "names": dict(enumerate(names))}
        (scratch / "data.yaml").write_text(json.dumps(described), encoding="utf-8")  # JSON is YAML
        model = YOLO(str(run.previous / "best.pt") if run.previous else run.params.get("base", "yolo11n.pt"))
        epochs = int(run.params.get("epochs", 20 if run.previous else 60))

        def watched(trainer: Any) -> None:  # noqa: ANN401 - Ultralytics' own
            run.progress(0.2 + 0.8 * (trainer.epoch + 1) / epochs, f"epoch {trainer.epoch + 1}")

        model.add_callback("on_train_epoch_end", watched)
        model.train(
            data=str(scratch / "data.yaml"), epochs=epochs, seed=run.seed, project=str(scratch), name="run", plots=False
        )
        shutil.move(scratch / "run" / "weights" / "best.pt", run.directory / "best.pt")
        shutil.rmtree(scratch)  # everything below run.directory becomes part of the version
        return {"boxes": float(boxes)}

    def load(self, directory: Path) -> None:
        """Read the weights."""
        self.model = YOLO(str(directory / "best.pt"))

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Boxes in percent of the image's size."""
        control = next(one for one in self.controls if one.type == "RectangleLabels")
        answers = []
        for task in tasks:
            image = self.path(task, control.to[0].key or "image")
            found = self.model.predict(str(image), verbose=False)[0]
            regions: list[dict[str, Any]] = [
                {
                    "from_name": control.name,
                    "to_name": control.to[0].name,
                    "type": "rectanglelabels",
                    "value": {
                        "x": 100 * (x - width / 2),
                        "y": 100 * (y - height / 2),
                        "width": 100 * width,
                        "height": 100 * height,
                        "rectanglelabels": [found.names[int(kind)]],
                    },
                    "score": float(sure),
                }
                for (x, y, width, height), kind, sure in zip(
                    found.boxes.xywhn.tolist(), found.boxes.cls.tolist(), found.boxes.conf.tolist(), strict=True
                )
            ]
            answers.append({"result": regions, "score": min((region["score"] for region in regions), default=0.0)})
        return answers
