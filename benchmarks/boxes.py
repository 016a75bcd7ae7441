"""The shipped box detector on generated scenes: aeroplanes and cars among clutter, 60 pictures to learn from.

Usage: python -m benchmarks.boxes [--json] [--short] [--rounds N]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.banking77 import ListedExamples, PlainRun
from benchmarks.common import Options, Row, folder, options, report, single
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.scores import score
from model.box_detector import BoxDetector

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="Airplane" background="green"/><Label value="Car" background="blue"/></RectangleLabels></View>'
)
WIDTH, HEIGHT = 360, 270
Box = tuple[float, float, float, float]


def scene(seed: int, where: Path) -> Example:
    """A picture with up to four things, none on top of another but some half hidden, and a task with its annotation."""
    random = np.random.default_rng(seed)
    picture = _ground(random)
    for _ in range(random.integers(8, 16)):
        _clutter(picture, random)
    boxes: list[tuple[str, Box]] = []
    for _ in range(random.integers(1, 5)):
        label = str(random.choice(["Airplane", "Car"]))
        w = random.uniform(36, 90)
        h = w * (random.uniform(0.75, 0.95) if label == "Airplane" else random.uniform(0.42, 0.55))
        box = (random.uniform(0, WIDTH - w), random.uniform(0, HEIGHT - h), w, h)
        if all(_apart(box, other) for _, other in boxes):
            (_airplane if label == "Airplane" else _car)(picture, box, random)
            boxes.append((label, box))
    for _ in range(random.integers(4, 9)):
        _clutter(picture, random, largest=22)
    noisy = picture + random.normal(0, 14, picture.shape)
    path = where / f"{seed}.png"
    cv2.imwrite(str(path), np.clip(noisy, 0, 255).astype(np.uint8))
    regions = [_region(label, box) for label, box in boxes]
    task = {"id": seed, "data": {"image": f"/data/{seed}.png"}}
    return Example(task, (LabelledAnnotation(seed, regions, 0, 0),), lambda _task, _url: path)


def _region(label: str, box: Box) -> dict[str, Any]:
    x, y, w, h = box
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 100 * w / WIDTH, "height": 100 * h / HEIGHT}
    value |= {"rotation": 0, "rectanglelabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "value": value, **size}


def _ground(random: np.random.Generator) -> Any:
    coarse = random.uniform(60, 200, (4, 5, 3)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _colour(random: np.random.Generator) -> tuple[float, ...]:
    return tuple(random.uniform(0, 255, 3).tolist())


def _clutter(picture: Any, random: np.random.Generator, largest: float = 60) -> None:
    """Lines, discs, boxes and triangles, behind the things as large as they are, in the same colours."""
    x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
    size, colour, kind = random.uniform(10, largest), _colour(random), random.integers(4)
    if kind == 0:
        end = (int(x + random.normal(0, largest)), int(y + random.normal(0, largest)))
        cv2.line(picture, (int(x), int(y)), end, colour, int(random.integers(1, 6)), cv2.LINE_AA)
    elif kind == 1:
        cv2.ellipse(picture, ((x, y), (size, size * random.uniform(0.4, 1)), random.uniform(0, 180)), colour, -1)
    elif kind == 2:
        corners = cv2.boxPoints(((x, y), (size, size * random.uniform(0.3, 1)), random.uniform(0, 180)))
        cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        corners = np.array([x, y]) + random.uniform(-size / 2, size / 2, (3, 2))
        cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def _shape(picture: Any, box: Box, corners: list[tuple[float, float]], colour: tuple[float, ...]) -> None:
    points = np.array([box[:2]]) + np.array(corners) * np.array([box[2:]])
    cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _airplane(picture: Any, box: Box, random: np.random.Generator) -> None:
    """From above: a fuselage, swept wings, a tail."""
    colour = _colour(random)
    _shape(picture, box, [(0.5, 0), (0.57, 0.12), (0.57, 0.95), (0.5, 1), (0.43, 0.95), (0.43, 0.12)], colour)
    _shape(picture, box, [(0.5, 0.3), (1, 0.62), (1, 0.72), (0.5, 0.55), (0, 0.72), (0, 0.62)], colour)
    _shape(picture, box, [(0.5, 0.8), (0.72, 0.95), (0.72, 1), (0.5, 0.93), (0.28, 1), (0.28, 0.95)], colour)


def _car(picture: Any, box: Box, random: np.random.Generator) -> None:
    """From the side: a body, a cabin with windows, two wheels."""
    colour, (x, y, w, h) = _colour(random), box
    _shape(picture, box, [(0, 0.5), (0.12, 0.42), (0.88, 0.42), (1, 0.55), (1, 0.85), (0, 0.85)], colour)
    _shape(picture, box, [(0.2, 0.45), (0.32, 0), (0.68, 0), (0.82, 0.45)], colour)
    _shape(picture, box, [(0.3, 0.4), (0.37, 0.1), (0.48, 0.1), (0.48, 0.4)], (230, 220, 200))
    _shape(picture, box, [(0.53, 0.4), (0.53, 0.1), (0.64, 0.1), (0.72, 0.4)], (230, 220, 200))
    for middle in (0.22, 0.78):
        hub = int(x + middle * w), int(y + 0.82 * h)
        cv2.circle(picture, hub, max(2, int(0.18 * h)), (20, 20, 20), -1, cv2.LINE_AA)


def _apart(one: Box, other: Box) -> bool:
    return (
        one[0] + one[2] < other[0]
        or other[0] + other[2] < one[0]
        or one[1] + one[3] < other[1]
        or other[1] + other[3] < one[1]
    )


def measure(chosen: Options) -> list[Row]:
    """Each round has other scenes; training counts reading the files, calibration and writing the version."""
    found: dict[str, list[float]] = {}
    for seed in range(chosen.rounds):
        with folder() as where, threadpool_limits(1):
            first = 10_000 * seed
            (where / "version").mkdir()
            train = [scene(first + number, where) for number in range(12 if chosen.short else 60)]
            test = [scene(first + 5_000 + number, where) for number in range(4 if chosen.short else 60)]
            model, took, metrics = learnt(train, where / "version", seed)
            began = time.monotonic()
            answers = model.answers(test)
            speed = len(test) / (time.monotonic() - began)
            size = sum(file.stat().st_size for file in (where / "version").iterdir()) / 1e6
        scores = score(parse_label_config(CONFIG), test, [answer["result"] for answer in answers])
        one = {} if scores is None else dict(scores.metrics)
        one |= {"took": took, "speed": speed, "size": size, "said": metrics.get("cv_box_f1", 0.0)}
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return [
        single("box F1 at an IoU of 0.5", found["box_f1"], "", at_least=0.8, note="shipped scorer, unseen scenes"),
        single("  Airplane", found["box_f1.Airplane"], ""),
        single("  Car", found["box_f1.Car"], ""),
        single("  what the version says of itself (cv_box_f1)", found["said"], ""),
        single("training", found["took"], "s"),
        single("predicting", found["speed"], "pictures/s"),
        single("size of a version", found["size"], "MB"),
    ]


def learnt(examples: list[Example], where: Path, seed: int) -> tuple[BoxDetector, float, dict[str, float]]:
    """A version trained and loaded as the backend does it; the seconds it took; its metrics."""
    model = BoxDetector(label_config=CONFIG)
    began = time.monotonic()
    metrics = model.train(ListedExamples(CONFIG, examples), PlainRun(where, seed))
    took = time.monotonic() - began
    model.load(where)
    return model, took, metrics


def main() -> None:
    chosen = options(__doc__, rounds=3)
    report("Generated scenes: 60 to learn from, 60 unseen ones", measure(chosen), chosen)


if __name__ == "__main__":
    main()
