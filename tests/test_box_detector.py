"""The shipped box detector: rectangles over pictures, in Label Studio's percentages."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import boxes
from benchmarks.banking77 import ListedExamples, PlainRun
from ml_backend import NotTrainable
from ml_backend.errors import MediaError, RunCancelled
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.scores import score
from model.box_detector import BoxDetector
from model.box_finding import moved, moves_between, thinned
from model.box_learning import sizes_of
from model.box_pixels import looks, overlaps, percentages, pixels_of, read

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Eight to learn from, six to look at."""
    folder = tmp_path_factory.mktemp("scenes")
    return [boxes.scene(number, folder) for number in range(14)]


@pytest.fixture(scope="module")
def version(scenes: list[Example]) -> Iterator[tuple[Path, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), learnt(Path(folder), scenes[:8])


def learnt(folder: Path, examples: list[Example], config: str = boxes.CONFIG, seed: int = 0) -> dict[str, float]:
    return BoxDetector(label_config=config).train(ListedExamples(config, examples), PlainRun(folder, seed))


@pytest.fixture(scope="module")
def detector(version: tuple[Path, dict[str, float]]) -> BoxDetector:
    model = BoxDetector(label_config=boxes.CONFIG)
    model.load(version[0])
    return model


def answers(model: BoxDetector, examples: list[Example]) -> list[Any]:
    """Through `predict`, as the server asks."""
    paths = {example.id: example.path("image") for example in examples}
    asked = model.for_config(model.label_config).fetching(lambda task, _url: paths[task["id"]])
    return asked.predict([example.task for example in examples])


def test_a_prediction_is_a_region_of_label_studio_in_percentages(detector: BoxDetector, scenes: list[Example]) -> None:
    for answer in answers(detector, scenes[8:]):
        assert 0 <= answer["score"] <= 1
        for region in answer["result"]:
            value = region["value"]
            assert (region["from_name"], region["to_name"], region["type"]) == ("label", "image", "rectanglelabels")
            assert (region["original_width"], region["original_height"]) == (boxes.WIDTH, boxes.HEIGHT)
            assert region["image_rotation"] == value["rotation"] == 0
            assert value["rectanglelabels"] in (["Airplane"], ["Car"])
            assert 0 <= value["x"] < value["x"] + value["width"] <= 100 + 1e-9
            assert 0 <= value["y"] < value["y"] + value["height"] <= 100 + 1e-9
            assert 0 < region["score"] <= 1


def test_eight_pictures_teach_it_to_find_most_things_in_others(detector: BoxDetector, scenes: list[Example]) -> None:
    found = [answer["result"] for answer in answers(detector, scenes[8:])]
    scores = score(parse_label_config(boxes.CONFIG), scenes[8:], found)
    assert scores is not None
    assert scores.metrics["box_f1"] >= 0.6


def test_a_version_says_how_it_did_on_pictures_that_were_left_out(version: tuple[Path, dict[str, float]]) -> None:
    assert version[1].keys() == {"cv_box_f1", "cv_examples"}
    assert version[1]["cv_examples"] == 2


def test_the_same_seed_gives_the_same_version(scenes: list[Example], tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        learnt(tmp_path / name, scenes[:3], seed=4)
    with np.load(tmp_path / "one/box_detector.npz") as one, np.load(tmp_path / "other/box_detector.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_a_label_that_the_config_no_longer_has_is_not_predicted(detector: BoxDetector, scenes: list[Example]) -> None:
    only = boxes.CONFIG.replace('<Label value="Airplane" background="green"/>', "")
    found = [one for answer in answers(detector.for_config(only), scenes[:8]) for one in answer["result"]]
    assert {one["value"]["rectanglelabels"][0] for one in found} == {"Car"}


def test_pictures_that_cannot_be_had_or_read_are_left_out_and_counted(scenes: list[Example], tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")

    def gone(_task: Json, url: str) -> Path:
        raise MediaError("not_found", "it is gone", url)

    bad = [replace(scenes[0], fetch=lambda _task, _url: broken), replace(scenes[1], fetch=gone)]
    metrics = learnt(tmp_path / "version", [*scenes[:3], *bad])
    assert metrics["unreadable_pictures"] == 2
    model = BoxDetector(label_config=boxes.CONFIG)
    model.load(tmp_path / "version")
    asked = model.fetching(lambda task, url: gone(task, url) if task["id"] else broken)
    assert asked.predict([scenes[0].task, scenes[1].task]) == [[], []]
    with pytest.raises(NotTrainable, match=r"2 pictures cannot be read, the first: .*no picture"):
        learnt(tmp_path / "version", bad)


def test_pictures_without_boxes_do_not_train(scenes: list[Example], tmp_path: Path) -> None:
    empty = [replace(one, annotations=(LabelledAnnotation(1, [], 1, 1),)) for one in scenes[:2]]
    with pytest.raises(NotTrainable, match="'label': none of 2 pictures has a box"):
        learnt(tmp_path, empty)


def test_one_picture_with_one_box_is_enough_to_begin(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    one = boxes.scene(3, tmp_path)
    learnt(tmp_path / "version", [one])
    model = BoxDetector(label_config=boxes.CONFIG)
    model.load(tmp_path / "version")
    (answer,) = model.answers([one])
    assert isinstance(answer["score"], float)


def test_boxes_that_fill_their_pictures_are_learnt_although_no_place_is_without_one(
    scenes: list[Example], tmp_path: Path
) -> None:
    value = {"x": 0, "y": 0, "width": 100, "height": 100, "rectanglelabels": ["Car"]}
    region = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "value": value}
    full = [replace(one, annotations=(LabelledAnnotation(1, [region], 1, 1),)) for one in scenes[:9]]
    learnt(tmp_path, full)
    model = BoxDetector(label_config=boxes.CONFIG)
    model.load(tmp_path)
    for answer in model.answers(scenes[9:12]):
        (found,) = answer["result"]
        assert found["value"]["rectanglelabels"] == ["Car"]
        assert min(found["value"]["width"], found["value"]["height"]) > 80


def test_a_cancelled_run_stops_in_the_middle_of_learning(scenes: list[Example], tmp_path: Path) -> None:
    class Cancelled(PlainRun):
        def progress(self, fraction: float, message: str = "") -> None:
            if fraction > 0.2:
                raise RunCancelled("enough")

    with pytest.raises(RunCancelled):
        BoxDetector(label_config=boxes.CONFIG).train(ListedExamples(boxes.CONFIG, scenes[:3]), Cancelled(tmp_path, 0))


RECTANGLES = '<RectangleLabels name="c" toName="i"><Label value="A"/></RectangleLabels>'


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ('<Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="A"/></Choices>', "is Choices"),
        ('<Image name="i" valueList="$i"/>' + RECTANGLES, "single picture"),
        ('<Image name="i" value="$i"/><RectangleLabels name="c" toName="i" value="$l"/>', "come with the tasks"),
        ('<Video name="i" value="$i"/>' + RECTANGLES, "annotates no Image"),
    ],
)
def test_a_config_that_is_not_supported_says_why(tags: str, why: str) -> None:
    assert why in (BoxDetector().check(f"<View>{tags}</View>") or "")


def test_serving_needs_no_scikit_learn(version: tuple[Path, dict[str, float]], scenes: list[Example]) -> None:
    code = (
        "import sys, pathlib\nfrom model.box_detector import BoxDetector\n"
        "assert not {'cv2', 'PIL', 'numpy'} & sys.modules.keys()\n"
        f"model = BoxDetector(label_config={boxes.CONFIG!r}); model.load(pathlib.Path({str(version[0])!r}))\n"
        f"model.fetching(lambda task, url: pathlib.Path({str(scenes[0].path('image'))!r}))\n"
        "assert 'score' in model.predict([{'id': 1, 'data': {'image': 'x'}}])[0]\n"
        "assert not {'sklearn', 'scipy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_of_another_format_are_refused(version: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    for file in version[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    names = json.loads((tmp_path / "box_detector.json").read_text())
    (tmp_path / "box_detector.json").write_text(json.dumps({**names, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        BoxDetector().load(tmp_path)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_read_upright_as_browsers_show_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    picture, width, height = read(tmp_path / "turned.jpg")
    assert (width, height) == (20, 40)
    assert picture.shape == (40, 20, 3)


def test_a_large_picture_is_read_smaller_and_keeps_its_own_size_in_mind(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((500, 2000, 3), np.uint8))
    picture, width, height = read(tmp_path / "large.png")
    assert (width, height) == (2000, 500)
    assert picture.shape == (100, 400, 3)


def test_a_picture_larger_than_memory_should_hold_is_refused_unread(tmp_path: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (60_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"
    (tmp_path / "bomb.png").write_bytes(header + b"\x00" * 64)
    with pytest.raises(ValueError, match=r"bomb\.png"):
        read(tmp_path / "bomb.png")


def test_what_is_in_a_box_looks_alike_at_any_size() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(picture, (100, 100), 40, (255, 255, 255), -1)
    larger = cv2.resize(picture, (400, 400), interpolation=cv2.INTER_CUBIC)
    one, other = looks(picture, np.array([50.0, 50, 100, 100])), looks(larger, np.array([100.0, 100, 200, 200]))
    elsewhere = looks(picture, np.array([0.0, 0, 60, 60]))
    assert np.abs(one - other).mean() < 0.2 * np.abs(one - elsewhere).mean()


def test_a_rotated_rectangle_is_taken_by_the_upright_box_around_it() -> None:
    value = {"x": 50, "y": 10, "width": 20, "height": 10, "rotation": 90}
    # A quarter of a turn clockwise around its corner: it hangs down to the left of it.
    assert pixels_of(value, 200, 100) == pytest.approx((90, 10, 10, 40))


# --- laws -------------------------------------------------------------------------------------------------------------

SHARE = st.floats(0, 1)


@given(st.tuples(SHARE, SHARE, SHARE, SHARE), st.integers(1, 5000), st.integers(1, 5000))
def test_pixels_become_percentages_and_the_same_pixels_again(
    shares: tuple[float, ...], width: int, height: int
) -> None:
    x, y = shares[0] * width * 0.9, shares[1] * height * 0.9
    box = np.array([x, y, (shares[2] * 0.99 + 0.01) * (width - x), (shares[3] * 0.99 + 0.01) * (height - y)])
    assert pixels_of(percentages(box, width, height), width, height) == pytest.approx(tuple(box), rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(*[st.floats(-50, 150)] * 2, *[st.floats(0.1, 200)] * 2), min_size=1, max_size=8))
def test_percentages_never_leave_the_picture(some: list[tuple[float, ...]]) -> None:
    for box in some:
        value = percentages(np.array(box), 100, 80)
        assert 0 <= value["x"] <= value["x"] + value["width"] <= 100 + 1e-9
        assert 0 <= value["y"] <= value["y"] + value["height"] <= 100 + 1e-9


BOXES = st.lists(st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(5, 50)] * 2), min_size=1, max_size=12)


@given(BOXES, st.randoms())
def test_what_stays_is_apart_and_the_most_likely_one_stays(some: list[tuple[float, ...]], random: Any) -> None:
    found = np.array(some)
    labels = np.array([random.randrange(2) for _ in some])
    odds = np.array([random.random() for _ in some])
    kept = thinned(found, labels, odds)
    assert kept[0] == odds.argmax()
    shared = overlaps(found[kept], found[kept]) * (labels[kept][:, None] == labels[kept][None, :])
    assert (shared - np.eye(len(kept)) <= 0.35 + 1e-9).all()


@given(BOXES, st.randoms())
def test_a_box_moved_by_what_lies_between_it_and_another_is_the_other(
    some: list[tuple[float, ...]], random: Any
) -> None:
    found = np.array(some)
    near = np.hstack(
        [found[:, :2] + found[:, 2:] * 0.1 * random.uniform(-1, 1), found[:, 2:] * random.uniform(0.9, 1.1)]
    )
    assert moved(found, moves_between(found, near)) == pytest.approx(near)


@given(BOXES)
def test_about_every_box_is_like_one_of_the_sizes(some: list[tuple[float, ...]]) -> None:
    found = np.array(some)
    sizes = sizes_of(found)
    centred = np.hstack([-found[:, 2:] / 2, found[:, 2:]])
    best = overlaps(centred, np.hstack([-sizes / 2, sizes])).max(axis=1)
    assert (best > 0.75).all() or len(sizes) == 12
