"""The model author's contract: what a model's methods are given, and what is made of what they give back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ml_backend import Control, NotTrainable, TrainingBackend, TrainingRun, TrainingSet
from ml_backend.bootstrap import Services, make_services
from ml_backend.errors import WorkerStopping
from ml_backend.events import Annotation, AnnotationsDeleted, AnnotationsWritten, Project, Task
from ml_backend.settings import Settings
from ml_backend.testing import ListTrainingSet, labelled, trained
from tests.running import LONG_LEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ml_backend.training import Trainer

CONFIG = """
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text" hint="be kind"><Choice value="good" predicted_values="positive"/></Choices>
  <Rating name="stars" toName="text"/>
  <Labels name="who" toName="text"><Label value="Person"/></Labels>
  <TextArea name="note" toName="text" perRegion="true"/>
</View>
"""
CREATED_US = 1_795_333_883_000_000
PROJECT = Project(id=7, created_at_us=CREATED_US, label_config=CONFIG)
UID = "7.1795333883"
SPAN = {
    "id": "a",
    "from_name": "who",
    "to_name": "text",
    "type": "labels",
    "value": {"start": 0, "end": 3, "labels": ["Person"]},
}
OTHER = {
    "id": "b",
    "from_name": "who",
    "to_name": "text",
    "type": "labels",
    "value": {"start": 4, "end": 7, "labels": ["Person"]},
}
NOTE = {"id": "a", "from_name": "note", "to_name": "text", "type": "textarea", "value": {"text": ["the boss"]}}
RELATION = {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"}
STARS = {"id": "c", "from_name": "stars", "to_name": "text", "type": "rating", "value": {"rating": 4}}


class Probe(TrainingBackend):
    """Writes down what it is given; a test says what it does besides."""

    seen: ClassVar[list[dict[str, Any]]] = []
    during: ClassVar[Callable[[TrainingSet, TrainingRun], dict[str, float] | None]] = lambda _data, _run: None
    unsupported: str | None = None

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        type(self).seen.append(
            {
                "tasks": [example.id for example in data],
                "again": [example.id for example in data],
                "changes": set(data.changes),
                "previous": run.previous,
                "params": dict(run.params),
                "own": self.extra_params,
                "seed": run.seed,
                "controls": data.controls,
                "results": {example.id: example.results() for example in data},
            }
        )
        (run.directory / "weights" / "layer").mkdir(parents=True)
        (run.directory / "weights" / "layer" / "one.txt").write_text(str(len(data)))
        return type(self).during(data, run)

    def load(self, directory: Path) -> None:
        self.learned = int((directory / "weights" / "layer" / "one.txt").read_text())

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return [[] for _ in tasks]

    def check(self, label_config: str) -> str | None:
        return type(self).unsupported

    def evaluate(self, data: TrainingSet) -> dict[str, float]:
        return {"learned": self.learned / 1000, "asked about": float(len(data))}


@pytest.fixture
def services(redis_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    environment = {"REDIS_URL": f"unix://{redis_socket}", "ML_BACKEND_DATA_DIR": str(tmp_path), **LONG_LEASE}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = make_services(Settings.from_environment(environment), timeout_s=5)
    made.redis.flushall()
    Probe.seen = []
    Probe.during = lambda _data, _run: None
    Probe.unsupported = None
    yield made
    made.close()


@pytest.fixture
def trainer(services: Services) -> Trainer:
    made = services.trainer()
    made._make_model = lambda uid, config, params: Probe(uid, config, extra_params=params)
    return made


def annotate(services: Services, *numbers: int, result: list[dict[str, Any]] | None = None, again: int = 0) -> None:
    """An annotation for each task; ``again`` is how many seconds later it is changed."""
    for number in numbers:
        when = CREATED_US + (number + again * 1000) * 1_000_000
        annotation = Annotation(
            number, number, [STARS] if result is None else result, created_at_us=when, updated_at_us=when
        )
        tasks = (Task(number, {"text": f"number {number}"}, CREATED_US, CREATED_US),)
        services.state.record(AnnotationsWritten("ANNOTATION_CREATED", PROJECT, (annotation,), tasks), time.time())


def ask(services: Services) -> str:
    now = time.time()
    asked = services.runs.request(UID, trigger="test", reason="a test", due=now, click=True, now=now)
    assert services.runs.dispatch(UID, time.time(), lambda *_: True) is not None
    return asked.id


def run(services: Services, trainer: Trainer) -> Any:
    run_id = ask(services)
    trainer.run(UID, run_id, "worker-1")
    return services.runs.get(run_id)


def serving(services: Services) -> Any:
    version = services.registry.serving(UID)
    assert version is not None
    return version


class TestTheTrainingSet:
    def test_can_be_read_as_often_as_needed_and_holds_every_annotated_task(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 3, 1, 2)
        run(services, trainer)
        assert Probe.seen[0]["tasks"] == Probe.seen[0]["again"] == [1, 2, 3]

    def test_brings_results_raw_relations_ratings_and_what_belongs_to_a_region_included(
        self, services: Services, trainer: Trainer
    ) -> None:
        everything = [SPAN, OTHER, NOTE, RELATION, STARS]
        annotate(services, 1, result=everything)
        run(services, trainer)
        assert Probe.seen[0]["results"] == {1: everything}

    def test_keeps_empty_results_which_are_negatives(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1)
        annotate(services, 2, result=[])
        run(services, trainer)
        assert Probe.seen[0]["results"][2] == []

    def test_brings_the_control_tags_with_labels_attributes_and_label_map(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 1)
        run(services, trainer)
        controls: tuple[Control, ...] = Probe.seen[0]["controls"]
        assert [(one.name, one.type) for one in controls] == [
            ("mood", "Choices"),
            ("stars", "Rating"),
            ("who", "Labels"),
            ("note", "TextArea"),
        ]
        assert (controls[0].labels, controls[0].attributes["hint"]) == (("good",), "be kind")
        assert controls[0].label_map == {"positive": "good"}
        assert (controls[3].attributes["perRegion"], controls[0].to[0].key) == ("true", "text")

    def test_names_what_changed_since_the_parent_version(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1, 2, 3)
        run(services, trainer)
        assert Probe.seen[0]["changes"] == {1, 2, 3}, "all of them, without a parent"
        annotate(services, 2, again=1, result=[{**STARS, "value": {"rating": 1}}])
        annotate(services, 4)
        run(services, trainer)
        assert Probe.seen[1]["changes"] == {2, 4}
        assert Probe.seen[1]["tasks"] == [1, 2, 3, 4]

    def test_leaves_out_what_was_deleted(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1, 2)
        services.state.record(AnnotationsDeleted("ANNOTATIONS_DELETED", PROJECT, (1,)), time.time())
        run(services, trainer)
        assert Probe.seen[0]["tasks"] == [2]

    def test_never_shows_what_is_held_out(self, services: Services, trainer: Trainer) -> None:
        annotate(services, *range(1, 151))
        run(services, trainer)
        manifest = serving(services).manifest
        assert (len(Probe.seen[0]["tasks"]), manifest.sizes["held_out"]) == (120, 30)
        assert manifest.trained_on_ids == set(Probe.seen[0]["tasks"])


class TestTheRun:
    def test_begins_without_a_parent_and_later_brings_its_verified_files(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 1)
        run(services, trainer)
        run(services, trainer)
        assert Probe.seen[0]["previous"] is None
        assert (Probe.seen[1]["previous"] / "weights" / "layer" / "one.txt").read_text() == "1"

    def test_begins_without_a_parent_when_the_parents_files_were_tampered_with(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 1)
        run(services, trainer)
        folder = services.registry.fetch(UID, 1)
        path = folder / "weights" / "layer" / "one.txt"
        path.chmod(0o600)
        path.write_text("666")
        assert run(services, trainer).status == "succeeded"
        assert Probe.seen[1]["previous"] is None

    def test_brings_the_models_own_params_and_not_ours(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1)
        services.state.setup(UID, CONFIG, json.dumps({"epochs": 3, "refit": {"retrain": {"every": 5}}}), time.time())
        run(services, trainer)
        assert Probe.seen[0]["params"] == Probe.seen[0]["own"] == {"epochs": 3}

    def test_has_the_same_seed_when_it_is_repeated_and_another_than_other_runs(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 1)

        def stop(_data: TrainingSet, _run: TrainingRun) -> None:
            raise WorkerStopping("the worker was asked to stop")

        Probe.during = stop
        run_id = ask(services)
        trainer.run(UID, run_id, "worker-1")
        Probe.during = lambda _data, _run: None
        assert services.runs.dispatch(UID, time.time(), lambda *_: True) is not None
        trainer.run(UID, run_id, "worker-2")
        run(services, trainer)
        first, again, other = (one["seed"] for one in Probe.seen)
        assert first == again != other
        assert 0 <= first < 2**32
        assert serving(services).manifest.seed == other

    def test_that_is_cancelled_says_so_and_stops_at_the_next_progress(
        self, services: Services, trainer: Trainer
    ) -> None:
        annotate(services, 1)
        noticed: list[bool] = []

        def cancel(_data: TrainingSet, training: TrainingRun) -> None:
            noticed.append(training.cancelled)
            services.runs.cancel(services.runs.running(UID).id, time.time())  # type: ignore[union-attr]
            until = time.monotonic() + 20
            while not training.cancelled and time.monotonic() < until:
                time.sleep(0.02)
            noticed.append(training.cancelled)
            training.progress(0.9)
            noticed.append(False)

        Probe.during = cancel
        assert run(services, trainer).status == "cancelled"
        assert noticed == [False, True]
        assert services.registry.versions(UID) == []

    def test_shows_its_progress_to_people(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1)
        shown: list[tuple[str, str]] = []

        def report(_data: TrainingSet, training: TrainingRun) -> None:
            training.progress(0.5, "half of it")
            running = services.runs.running(UID)
            assert running is not None
            shown.append((running.phase, running.message))

        Probe.during = report
        run(services, trainer)
        assert shown == [("train", "half of it")]

    def test_keeps_what_train_returns_beside_the_version(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1)
        Probe.during = lambda _data, _run: {"loss": 0.25}
        run(services, trainer)
        assert serving(services).manifest.metrics.information == {"loss": 0.25}

    def test_that_cannot_train_gives_the_reason_and_is_no_failure(self, services: Services, trainer: Trainer) -> None:
        annotate(services, 1)

        def refuse(_data: TrainingSet, _run: TrainingRun) -> None:
            raise NotTrainable("it needs two stars")

        Probe.during = refuse
        assert run(services, trainer).ending == "nothing to train yet: it needs two stars"
        assert services.runs.standing(UID).failures == 0


def test_a_config_that_check_refuses_trains_nothing_and_says_why(services: Services, trainer: Trainer) -> None:
    annotate(services, 1)
    Probe.unsupported = "it needs Choices over Image"
    assert "it needs Choices over Image" in run(services, trainer).ending
    assert Probe.seen == []


def test_evaluate_compares_versions_where_no_scorer_is_shipped_for_the_controls(
    services: Services, trainer: Trainer
) -> None:
    only_stars = '<View><Text name="text" value="$text"/><Rating name="stars" toName="text"/></View>'
    services.state.setup(UID, only_stars, None, time.time())
    globals()["PROJECT"], before = Project(id=7, created_at_us=CREATED_US, label_config=only_stars), PROJECT
    try:
        annotate(services, *range(1, 151))
        run(services, trainer)
        annotate(services, *range(151, 201))
        run(services, trainer)
    finally:
        globals()["PROJECT"] = before
    metrics = serving(services).manifest.metrics
    assert serving(services).number == 2
    assert metrics.candidate["learned"] > metrics.incumbent["learned"] > 0
    assert metrics.candidate["asked about"] == metrics.compared_on >= 30


class TestForTestsOfAuthors:
    def test_a_model_is_trained_and_loaded_afresh_without_a_server(self, tmp_path: Path) -> None:
        Probe.seen = []
        examples = [labelled({"text": "a"}, [STARS]), labelled({"text": "b"}, [], task=12)]
        model = trained(Probe, CONFIG, examples, tmp_path, params={"epochs": 1}, seed=3)
        assert (model.learned, model.extra_params, model.model_version) == (2, {"epochs": 1}, "test")
        assert (Probe.seen[0]["seed"], 12 in Probe.seen[0]["results"]) == (3, True)

    def test_changes_can_be_given(self) -> None:
        examples = [labelled({"text": "a"}, [STARS], task=1), labelled({"text": "b"}, [STARS], task=2)]
        assert ListTrainingSet(CONFIG, examples).changes == {1, 2}
        assert ListTrainingSet(CONFIG, examples, changes=[2]).changes == {2}
