"""A span project on a real Label Studio, from annotation to its export: every place right behind emoji and accents."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.label_studio.driver import Driver
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.label_studio.server import RealLabelStudio

CONFIG = (
    '<View><Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>'
    '<Rating name="stars" toName="text"/><Text name="text" value="$text"/></View>'
)
PEOPLE = ("Zoë Ångström", "Bob", "Renée", "Ann Lee")
PLACES = ("São Paulo", "Kyiv", "Łódź", "New York")
TEXTS = [
    (f"{'👩‍👩‍👧' if number % 2 else '😀'} {person} 🎉 went to\n{place} 👍🏽, they say.", person, place)
    for number, (person, place) in enumerate(
        # Last come four pairs of names that are each met before, with another one.
        sorted(itertools.product(PEOPLE, PLACES), key=lambda two: PEOPLE.index(two[0]) == PLACES.index(two[1]))
    )
]
LABELLED = 12


def region(text: str, quoted: str, label: str) -> dict[str, Any]:
    """As the page stores it: places counted in code points (seen in a browser)."""
    start = text.index(quoted)
    value = {"start": start, "end": start + len(quoted), "text": quoted, "labels": [label]}
    return {"from_name": "label", "to_name": "text", "type": "labels", "value": value}


@pytest.fixture(scope="module")
def exported(
    label_studio: RealLabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[int, dict[str, Any]]]:
    """Twelve of sixteen texts annotated; the rest once the backend has trained and sent predictions by itself."""
    key = {"LABEL_STUDIO_URL": label_studio.base_url, "LABEL_STUDIO_API_KEY": label_studio.personal_token}
    with (
        RunningBackend(tmp_path_factory.mktemp("spans") / "data", environment=key) as backend,
        Driver(label_studio.base_url, label_studio.personal_token) as driver,
    ):
        project = driver.create_project(CONFIG)["id"]
        driver.connect(project, backend.url)
        tasks = driver.import_tasks(project, [{"text": text} for text, _, _ in TEXTS])
        for task, (text, person, place) in list(zip(tasks, TEXTS, strict=True))[:LABELLED]:
            driver.annotate(task, [region(text, person, "PER"), region(text, place, "LOC")])
        rest = tasks[LABELLED:]

        def predicted() -> bool:
            return {one["task"] for one in driver.predictions(project=project)} >= set(rest)

        wait_until(predicted, 120, f"predictions of the tasks that nobody labelled\n{backend.log()}", every_s=0.5)
        found = {place: _with_predictions(driver, task) for place, task in enumerate(tasks)}
        exports = {one["id"]: one for one in driver.export(project)}
        for place, task in enumerate(tasks):
            found[place]["exported"] = exports[task]
        yield found
        driver.delete_project(project)
    assert backend.stop() == 0


def _with_predictions(driver: Driver, task: int) -> dict[str, Any]:
    return {"predictions": driver.predictions(task=task)}


def test_tasks_that_nobody_labelled_have_their_names_in_their_places(exported: dict[int, dict[str, Any]]) -> None:
    for place in range(LABELLED, len(TEXTS)):
        text, person, city = TEXTS[place]
        (prediction,) = exported[place]["predictions"]
        regions = prediction["result"]
        assert [(one["value"]["text"], one["value"]["labels"]) for one in regions] == [
            (person, ["PER"]),
            (city, ["LOC"]),
        ]
        assert all(text[one["value"]["start"] : one["value"]["end"]] == one["value"]["text"] for one in regions)
        assert all(0 < one["score"] <= 1 for one in regions)
        assert prediction["score"] is not None
        assert prediction["model_version"].startswith("v1-")


def test_label_studio_exports_what_was_annotated_where_it_was(exported: dict[int, dict[str, Any]]) -> None:
    for place in range(LABELLED):
        text, person, city = TEXTS[place]
        task = exported[place]["exported"]
        assert task["data"]["text"] == text
        values = [one["value"] for one in task["annotations"][0]["result"]]
        assert [text[value["start"] : value["end"]] for value in values] == [person, city]


def test_a_config_that_no_shipped_model_supports_connects_says_why_and_still_counts(
    label_studio: RealLabelStudio, driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = CONFIG.replace("<Text ", "<HyperText ")
    with RunningBackend(tmp_path_factory.mktemp("unsupported") / "data") as backend:
        project = driver.create_project(config)["id"]
        driver.connect(project, backend.url)
        assert driver.connections(project)[0]["readable_state"] == "Connected"
        tasks = driver.import_tasks(project, [{"text": "<b>Bob</b>"}])
        driver.annotate(tasks[0], [])
        why = "'label' annotates HyperText"
        assert why in backend.log()
        assert why in backend.post("/validate", {"config": config})[1]["reason"]
        status, answer = backend.get("/api/v1/projects")
        assert status == 200
        (seen,) = answer["projects"]
        assert why in seen["unsupported"]
        assert seen["counters"]["total_annotations_number"] == 1
        driver.delete_project(project)
