"""BoxDetector: ``RectangleLabels`` over ``Image`` on a CPU, with edges and colours and a linear classifier.

Good for things that look much alike each time: parts, logos, symbols, vehicles from a fixed view, drawn or printed
things; a few dozen marked pictures are enough. Not for things whose shape varies freely (people, animals), for much
overlap, or for things smaller than about a thirtieth of the picture: bring a neural network for those. It learns from
at most 600 pictures (the newest tasks), each shrunk to 400 pixels a side. Rotated rectangles are learnt as the upright
ones around them, and upright ones are what it predicts.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_backend import Control, Example, NotTrainable
from model.shipped import Shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ml_backend import TrainingRun, TrainingSet
    from model.box_finding import Finder
    from model.box_learning import Marked

Json = dict[str, Any]

_MOST_PICTURES = 600
_DOUBTFUL = 0.05


class BoxDetector(Shipped):
    """Predicts every `RectangleLabels` control over an image; leaves other controls alone."""

    preload = ("cv2", "PIL.Image", "model.box_learning", "model.box_version", "sklearn.linear_model")
    control_type = "RectangleLabels"
    _finders: Mapping[str, Finder] = {}

    @staticmethod
    def why_not(control: Control) -> str | None:
        """Why this control is not supported; None when it is."""
        if control.type != "RectangleLabels":
            return f"is {control.type}, not RectangleLabels"
        if not control.labels:
            return "has no Label of its own: its labels come with the tasks"
        if _shown(control) is None:
            return "annotates no Image with a single picture that the task data names"
        return None

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float]:
        """Train every supported control that has a box; returns scores on pictures that were left out.

        Pictures that cannot be had or read are left out and counted. Raises `NotTrainable` when nothing is left.
        """
        # Late here and in load: the web process imports this module and may never serve a version.
        from model import box_version  # noqa: PLC0415
        from model.box_learning import fit  # noqa: PLC0415

        finders: dict[str, Finder] = {}
        metrics: dict[str, float] = {}
        reasons: list[str] = []
        supported = [control for control in data.controls if self.why_not(control) is None]
        for at, control in enumerate(supported):
            say = partial(_say, run, control.name, at / len(supported), 1 / len(supported))
            marked, unread = _gather(control, data, say)
            boxes = sum(len(one.boxes) for one in marked)
            if not boxes:
                why = f"{len(unread)} pictures cannot be read, the first: {unread[0]}" if unread else ""
                reasons.append(f"{control.name!r}: none of {len(marked)} pictures has a box" + (why and f"; {why}"))
                continue
            learning = partial(_say, run, control.name, (at + 0.1) / len(supported), 0.9 / len(supported))
            finders[control.name], quality = fit(marked, control.labels, run.seed, learning)
            if unread:
                quality["unreadable_pictures"] = float(len(unread))
            metrics |= {f"{control.name}.{key}" if len(supported) > 1 else key: one for key, one in quality.items()}
        if not finders:
            raise NotTrainable("; ".join(reasons) or self.check(data.label_config) or "there is no control to train")
        box_version.write(run.directory, finders)
        run.progress(1.0, "written")
        return metrics

    def load(self, directory: Path) -> None:
        """Read a version. Raises `OSError`, `KeyError` or `ValueError` when the files are not a version's."""
        from model import box_version  # noqa: PLC0415 - late, see train

        self._finders = box_version.read(directory)

    def predict(self, tasks: list[Json], context: Json | None = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """``{"result", "score"}`` for each task, ``[]`` for one whose picture cannot be had or read.

        ``score`` says how clear the least clear place is: 0 (ask a person) to 1. A region's own ``score`` is the
        probability that it is right.
        """
        return self.answers([Example(task, (), self._fetch) for task in tasks])

    def answers(self, examples: Sequence[Example]) -> list[Any]:
        """As `predict`, of examples that fetch their pictures themselves."""
        answers: list[Any] = [[] for _ in examples]
        for control in self.controls:
            finder, shown = self._finders.get(control.name), _shown(control)
            if finder is None or shown is None or self.why_not(control) is not None:
                continue
            for place, example in enumerate(examples):
                found = _found(finder, control, example)
                if found is not None:
                    before = answers[place] or {"result": [], "score": 1.0}
                    both = before["result"] + found["result"]
                    answers[place] = {"result": both, "score": min(before["score"], found["score"])}
        return answers


def _shown(control: Control) -> tuple[str, str] | None:
    """The name and the task data key of the picture that a control annotates."""
    for one in control.to:
        if one.type == "Image" and one.key and "valueList" not in one.attributes:
            return one.name, one.key
    return None


def _say(run: TrainingRun, name: str, begin: float, share: float, fraction: float) -> None:
    run.progress(begin + share * fraction, f"learning {name!r}")


def _gather(control: Control, data: TrainingSet, say: Callable[[float], None]) -> tuple[list[Marked], list[str]]:
    """The newest pictures with their boxes, and why others could not be read."""
    marked: deque[Marked] = deque(maxlen=_MOST_PICTURES)
    unread: list[str] = []
    for number, example in enumerate(data):
        if number % 20 == 0:
            say(0.1 * number / max(len(data), 1))
        if not example.annotations:
            continue
        try:
            marked.append(_marked(control, example))
        except (LookupError, ValueError) as error:
            unread.append(str(error))
    return list(marked), unread


def _marked(control: Control, example: Example) -> Marked:
    """Raises `LookupError` or `ValueError` where the picture cannot be had or read."""
    import numpy as np  # noqa: PLC0415 - late, see train

    from model.box_learning import Marked  # noqa: PLC0415
    from model.box_pixels import pixels_of, read  # noqa: PLC0415

    name, key = _shown(control) or ("", "")
    picture, _, _ = read(example.path(key))
    height, width = picture.shape[:2]
    boxes, labels = [], []
    for region in example.newest(control.name):
        value = region.get("value")
        if region.get("to_name", name) != name or not isinstance(value, dict):
            continue
        given = value.get("rectanglelabels")
        known = [
            one if one in control.labels else control.label_map.get(str(one))
            for one in (given if isinstance(given, list) else [])
        ]
        label = next((one for one in known if one in control.labels), None)
        box = pixels_of(value, width, height)
        if label is not None and box is not None and min(box[2:]) >= 1:
            boxes.append(box)
            labels.append(control.labels.index(label))
    return Marked(picture, np.array(boxes, float).reshape(-1, 4), np.array(labels, np.int64))


def _found(finder: Finder, control: Control, example: Example) -> Json | None:
    """One control's answer; None where there is no picture."""
    import numpy as np  # noqa: PLC0415 - late, see train

    from model.box_pixels import percentages, read  # noqa: PLC0415

    name, key = _shown(control) or ("", "")
    try:
        picture, width, height = read(example.path(key))
    except (LookupError, ValueError):
        return None
    boxes, labels, sure = finder.find(picture, frozenset(control.labels))
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    regions = []
    for box, label, score in zip(boxes, labels.tolist(), sure.tolist(), strict=True):
        value: Json = percentages(box, picture.shape[1], picture.shape[0])
        if score < finder.threshold or min(value["width"], value["height"]) <= 0:
            continue
        value |= {"rectanglelabels": [finder.labels[label]]}
        region = {"from_name": control.name, "to_name": name, "type": "rectanglelabels", "value": value, **size}
        regions.append({**region, "score": round(score, 6)})
    # As far from the threshold as from certainty either way; what is hardly there does not count.
    doubts = sure[sure > _DOUBTFUL]
    most = np.where(doubts > finder.threshold, 1 - finder.threshold, finder.threshold)
    clear = np.abs(doubts - finder.threshold) / np.maximum(most, 1e-9)
    return {"result": regions, "score": round(float(clear.min()), 6) if len(clear) else 1.0}
