"""An image project on a real Label Studio: uploaded files, boxes in percent, from annotation to its export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import boxes
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.scores import score
from tests.label_studio.driver import Driver
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.label_studio.server import RealLabelStudio

LABELLED, UNSEEN = 10, 3


@pytest.fixture(scope="module")
def project(label_studio: RealLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Thirteen uploaded pictures, ten of them annotated; the rest once the backend has sent predictions by itself."""
    key = {"LABEL_STUDIO_URL": label_studio.base_url, "LABEL_STUDIO_API_KEY": label_studio.personal_token}
    folder = tmp_path_factory.mktemp("scenes")
    scenes = [boxes.scene(number, folder) for number in range(LABELLED + UNSEEN)]
    with (
        RunningBackend(tmp_path_factory.mktemp("images") / "data", environment=key) as backend,
        Driver(label_studio.base_url, label_studio.personal_token) as driver,
    ):
        number = driver.create_project(boxes.CONFIG)["id"]
        driver.connect(number, backend.url)
        tasks = [driver.upload(number, f"{at}.png", one.path("image").read_bytes())[0] for at, one in enumerate(scenes)]
        for task, scene in list(zip(tasks, scenes, strict=True))[:LABELLED]:
            driver.annotate(task, scene.results())

        def predicted() -> bool:
            return {one["task"] for one in driver.predictions(project=number)} >= set(tasks[LABELLED:])

        wait_until(predicted, 200, f"predictions of the pictures that nobody labelled\n{backend.log()}", every_s=0.5)
        exports = {one["id"]: one for one in driver.export(number)}
        yield [
            {"scene": scene, "predictions": driver.predictions(task=task), "exported": exports[task]}
            for task, scene in zip(tasks, scenes, strict=True)
        ]
        driver.delete_project(number)
    assert backend.stop() == 0


def test_pictures_that_nobody_labelled_have_boxes_where_the_things_are(project: list[dict[str, Any]]) -> None:
    rest = project[LABELLED:]
    predictions = [one["predictions"][0] for one in rest]
    scores = score(
        parse_label_config(boxes.CONFIG), [one["scene"] for one in rest], [one["result"] for one in predictions]
    )
    assert scores is not None
    assert scores.metrics["box_f1"] >= 0.5
    assert all(one["model_version"].startswith("v1-") and one["score"] is not None for one in predictions)
    regions = [region for one in predictions for region in one["result"]]
    assert {(one["original_width"], one["original_height"]) for one in regions} == {(boxes.WIDTH, boxes.HEIGHT)}


def test_label_studio_exports_the_percentages_that_were_annotated(project: list[dict[str, Any]]) -> None:
    for one in project[:LABELLED]:
        annotation = one["exported"]["annotations"][0]
        example = Example(one["scene"].task, (LabelledAnnotation(1, annotation["result"], 1, 1),))
        theirs = [region["value"] for region in example.newest("label")]
        ours = [region["value"] for region in one["scene"].results()]
        assert theirs == ours
