"""One training run, over real parts: what is published, what serves, and how a run that cannot succeed ends."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend import NotTrainable
from ml_backend.bootstrap import Services, make_services
from ml_backend.errors import RunEnded, RunTimedOut, WorkerStopping
from ml_backend.events import Annotation, AnnotationsDeleted, AnnotationsWritten, Project, Task
from ml_backend.registry import Registry
from ml_backend.registry.aliases import Aliases
from ml_backend.registry.storage import FolderStorage
from ml_backend.runs import Runs
from ml_backend.settings import Settings
from ml_backend.state import State
from ml_backend.training.run import Trainer
from ml_backend.worker.horse import TimeLimit
from tests.models.counting import CountingModel
from tests.running import LONG_LEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ml_backend.runs import Lease

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text">'
    '<Choice value="good"/><Choice value="bad"/></Choices></View>'
)
CREATED_US = 1_795_333_883_000_000
PROJECT = Project(id=7, created_at_us=CREATED_US, label_config=CONFIG)
UID = "7.1795333883"
"""See PROJECT."""


class Switchable(CountingModel):
    """The counting model, with what a test wants to go wrong."""

    during: Callable[[Any], None] | None = None
    spoiled = False

    def train(self, data: Any, run: Any) -> dict[str, float] | None:
        if type(self).during is not None:
            type(self).during(run)
        made = super().train(data, run)
        if type(self).spoiled:
            (run.directory / "words.json").write_text('{"good": {"bad": 9}, "bad": {"good": 9}}')
        return made


class Validating(Switchable):
    """It also says what it answers about tasks that it was trained without: what people do, or the contrary."""

    warm = False

    def train(self, data: Any, run: Any) -> dict[str, float] | None:
        made = super().train(data, run)
        for example in data:
            (label,) = example.majority("mood")
            said = {"good": "bad", "bad": "good"}[label] if type(self).spoiled else label
            region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [said]}}
            run.left_out("mood", example.id, [region])
        if type(self).warm:
            assert run.previous is None or run.previous.is_dir()
        return made


@contextmanager
def switchable_services(
    socket: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, **more: str
) -> Iterator[Services]:
    """All parts, over an emptied Redis, with nothing that goes wrong yet; commands are told the same."""
    environment = {"REDIS_URL": f"unix://{socket}", "ML_BACKEND_DATA_DIR": str(data_dir), **LONG_LEASE, **more}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = make_services(Settings.from_environment(environment), timeout_s=5)
    Switchable.during = None
    Switchable.spoiled = Validating.spoiled = Validating.warm = False
    made.redis.flushall()
    yield made
    made.close()


@pytest.fixture
def services(redis_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with switchable_services(redis_socket, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def trainer(services: Services) -> Trainer:
    made = services.trainer()
    made._make_model = lambda uid, config, params: Switchable(uid, config, extra_params=params)
    return made


def annotate(services: Services, *numbers: int, mood: str | None = None) -> None:
    """Odd tasks are good, even ones bad; their texts say so."""
    for number in numbers:
        said = "good" if number % 2 else "bad"
        label = mood or said
        region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        when = CREATED_US + number * 1_000_000
        services.state.record(
            AnnotationsWritten(
                "ANNOTATION_CREATED",
                PROJECT,
                (Annotation(number, number, [region], created_at_us=when, updated_at_us=when),),
                (Task(number, {"text": f"a {said} thing number {number}"}, when, when),),
            ),
            time.time(),
        )


def run(services: Services, trainer: Trainer) -> Any:
    """Ask for a run, carry it out, and return its record."""
    now = time.time()
    asked = services.runs.request(UID, trigger="test", reason="a test", due=now, click=True, now=now)
    assert services.runs.dispatch(UID, time.time(), lambda *_: True) is not None
    trainer.run(UID, asked.id, "worker-1")
    return services.runs.get(asked.id)


def test_a_first_version_is_published_and_serves(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    done = run(services, trainer)
    version = services.registry.serving(UID)
    assert version is not None
    assert (done.status, version.number) == ("succeeded", 1)
    assert done.ending == f"{version.name} promoted: the first version"


def test_its_manifest_says_what_it_was_made_of(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    done = run(services, trainer)
    manifest = services.registry.serving(UID).manifest
    assert manifest.trained_on_ids == frozenset(range(1, 13))
    assert manifest.counters["useful_annotation_number"] == 12
    assert (manifest.run, manifest.trigger, manifest.reason) == (done.id, "test", "a test")
    assert {"snapshot", "train", "compare"} <= manifest.durations.keys()
    assert "scikit-learn" in manifest.libraries
    assert manifest.parent is None


def test_after_a_run_its_annotations_are_no_changes_any_more(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    training = services.state.load(UID).training
    assert (training.changed, training.trained, training.trained_size) == (0, True, 12)


def test_what_is_annotated_during_a_run_stays_a_change(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    Switchable.during = lambda _: annotate(services, 13, 14)
    run(services, trainer)
    assert services.state.load(UID).training.changed == 2


def test_nothing_of_a_run_stays_in_the_work_folder(services: Services, trainer: Trainer, tmp_path: Path) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    assert list((tmp_path / "work").iterdir()) == []


def test_one_class_is_a_reason_and_no_failure(services: Services, trainer: Trainer) -> None:
    annotate(services, 1, 3, 5)
    done = run(services, trainer)
    assert (done.status, done.traceback) == ("failed", "")
    assert "two choices" in done.ending
    assert services.runs.standing(UID).failures == 0


def test_no_annotation_is_a_reason_too(services: Services, trainer: Trainer) -> None:
    annotate(services, 1)
    services.state.record(AnnotationsDeleted("ANNOTATIONS_DELETED", PROJECT, (1,)), time.time())
    assert "no annotation" in run(services, trainer).ending


def test_an_exception_fails_the_run_with_its_text_and_a_traceback_for_the_operator(
    services: Services, trainer: Trainer
) -> None:
    annotate(services, *range(1, 13))

    def fail(_: Any) -> None:
        raise RuntimeError("out of paper")

    Switchable.during = fail
    done = run(services, trainer)
    assert (done.status, done.error) == ("failed", "RuntimeError: out of paper")
    assert "in fail" in done.traceback
    assert services.runs.standing(UID).failures == 1
    assert services.registry.versions(UID) == []


def test_what_an_exception_says_is_kept_also_where_no_json_can_hold_it(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))

    def fail(_run: Any) -> None:
        raise OSError("no such file: \udcff.txt")

    Switchable.during = fail
    done = run(services, trainer)
    assert done.ending == "OSError: no such file: ?.txt"
    assert services.state.decisions(UID)[0]["reason"] == done.ending


def test_a_cancelled_run_publishes_nothing(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))

    def cancel(training_run: Any) -> None:
        services.runs.cancel(services.runs.running(UID).id, time.time())
        deadline = time.monotonic() + 10
        while not training_run.cancelled and time.monotonic() < deadline:
            time.sleep(0.05)
        training_run.progress(0.5)

    Switchable.during = cancel
    assert run(services, trainer).status == "cancelled"
    assert services.registry.versions(UID) == []


def test_a_run_that_lost_its_lease_publishes_nothing(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    Switchable.during = lambda _: services.redis.hset(f"mlb:{{{UID}}}:running", "token", "999")
    trainer._keep = _no_keeper
    done = run(services, trainer)
    assert done.status == "started"
    assert services.registry.versions(UID) == []


class TestBetweenTheFilesAndTheAlias:
    """The commit of the manifest is the border: before it a word to stop is obeyed, after it it is too late."""

    @staticmethod
    def after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, then: Callable[[], object]) -> None:
        """Let something happen, once, as soon as that step is done."""
        plain, left = getattr(owner, name), [then]

        def wrapped(*arguments: Any, **named: Any) -> Any:
            answer = plain(*arguments, **named)
            if left:
                left.pop()()
            return answer

        monkeypatch.setattr(owner, name, wrapped)

    @staticmethod
    def carry_out(services: Services, trainer: Trainer) -> Any:
        annotate(services, *range(1, 13))
        # As `horse.carry_out` does. Its alarm is set off by hand.
        with TimeLimit(600):
            return run(services, trainer)

    @staticmethod
    def nothing_is_there(services: Services, tmp_path: Path) -> bool:
        left = [one for one in (tmp_path / "versions" / UID).glob("*") if one.is_dir()]
        return services.registry.serving(UID) is None and services.registry.versions(UID) == left == []

    @pytest.fixture
    def cancel(self, services: Services, trainer: Trainer) -> Callable[[], object]:
        """Cancel the run that trains, so that nobody but the fence can have heard of it."""
        trainer._keep = _no_keeper
        return lambda: services.runs.cancel(services.runs.running(UID).id, services.runs.time())

    def test_a_cancel_before_the_commit_publishes_nothing(
        self,
        services: Services,
        trainer: Trainer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        cancel: Callable[[], object],
    ) -> None:
        self.after(monkeypatch, FolderStorage, "put", cancel)
        assert self.carry_out(services, trainer).status == "cancelled"
        assert self.nothing_is_there(services, tmp_path)

    @pytest.mark.parametrize("step", [(FolderStorage, "commit"), (Registry, "prune"), (Aliases, "move")])
    def test_a_cancel_after_the_commit_is_too_late(
        self,
        services: Services,
        trainer: Trainer,
        monkeypatch: pytest.MonkeyPatch,
        cancel: Callable[[], object],
        step: tuple[type, str],
    ) -> None:
        self.after(monkeypatch, *step, cancel)
        done = self.carry_out(services, trainer)
        assert done.status == "succeeded"
        assert services.registry.serving(UID).manifest.run == done.id

    @pytest.mark.parametrize("step", [(FolderStorage, "put"), (FolderStorage, "commit")])
    def test_a_time_limit_until_the_commit_has_returned_publishes_nothing(
        self,
        services: Services,
        trainer: Trainer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: tuple[type, str],
    ) -> None:
        self.after(monkeypatch, *step, lambda: signal.raise_signal(signal.SIGALRM))
        done = self.carry_out(services, trainer)
        assert (done.status, done.ending) == ("failed", "it took longer than 600 s, the limit for one run")
        assert self.nothing_is_there(services, tmp_path)

    @pytest.mark.parametrize("step", [(Registry, "prune"), (Aliases, "move"), (State, "attempted"), (Runs, "finish")])
    def test_a_time_limit_after_the_commit_is_too_late(
        self, services: Services, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
    ) -> None:
        self.after(monkeypatch, *step, lambda: signal.raise_signal(signal.SIGALRM))
        done = self.carry_out(services, trainer)
        version = services.registry.serving(UID)
        assert (done.status, done.ending) == ("succeeded", f"{version.name} promoted: the first version")
        assert [one.number for one in services.registry.versions(UID)] == [version.number] == [1]
        assert services.state.load(UID).training.trained_size == 12
        assert services.runs.standing(UID).failures == 0


class TestARunThatDiedAfterPublishing:
    @staticmethod
    def again(services: Services, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, *between: int) -> Any:
        """A run that dies before it promotes; annotations that come then; and its second attempt."""

        def die(*_: object, **__: object) -> None:
            raise WorkerStopping("the worker was asked to stop")

        with monkeypatch.context() as patch:
            patch.setattr(services.registry, "promote", die)
            first = run(services, trainer)
        assert first.status == "queued"
        assert [version.status for version in services.registry.versions(UID)] == ["standby"]
        annotate(services, *between)
        assert services.runs.dispatch(UID, time.time(), lambda *_: True) is not None
        trainer.run(UID, first.id, "worker-2")
        return services.runs.get(first.id)

    def test_goes_on_from_there_and_publishes_no_second_version(
        self, services: Services, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        annotate(services, *range(1, 13))
        done = self.again(services, trainer, monkeypatch)
        assert (done.status, done.attempts) == ("succeeded", 2)
        assert [version.status for version in services.registry.versions(UID)] == ["serving"]
        assert services.state.load(UID).training.changed == 0  # type: ignore[union-attr]
        assert services.runs.standing(UID).waiting is None

    def test_leaves_what_came_meanwhile_a_change_and_keeps_the_click_that_may_have_joined(
        self, services: Services, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        annotate(services, *range(1, 13))
        self.again(services, trainer, monkeypatch, 13, 14)
        training = services.state.load(UID).training  # type: ignore[union-attr]
        assert (training.trained_size, training.changed) == (12, 2)
        behind = services.runs.standing(UID).waiting
        assert behind is not None
        assert behind.click


def test_from_150_tasks_on_one_in_five_is_held_out(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    manifest = services.registry.serving(UID).manifest
    assert (manifest.sizes["tasks"], manifest.sizes["held_out"]) == (120, 30)
    assert manifest.metrics.candidate["accuracy"] == 1.0


def test_a_worse_version_is_kept_aside_and_the_old_one_serves_on(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    Switchable.spoiled = True
    done = run(services, trainer)
    assert services.registry.serving(UID).number == 1
    assert [(one.number, one.status) for one in services.registry.versions(UID)] == [(2, "kept aside"), (1, "serving")]
    assert "worse than what serves: accuracy 0.000 against 1.000" in done.ending


@pytest.fixture
def validating(trainer: Trainer) -> Trainer:
    trainer._make_model = lambda uid, config, params: Validating(uid, config, extra_params=params)
    return trainer


def test_a_small_project_compares_what_was_answered_about_tasks_that_were_left_out(
    services: Services, validating: Trainer
) -> None:
    annotate(services, *range(1, 41))
    run(services, validating)
    annotate(services, *range(41, 51))
    assert "promoted: not worse than what serves" in run(services, validating).ending
    Validating.spoiled = True
    done = run(services, validating)
    assert (done.status, services.registry.serving(UID).number) == ("succeeded", 2)
    assert (
        "kept aside: worse than what serves: accuracy 0.000 against 1.000, better on 0 and worse on 50" in done.ending
    )
    assert "of 50 examples, each time trained without them (p = " in done.ending
    made = services.registry.get(UID, 3).manifest
    assert (made.metrics.compared_on, len(made.trained_on_ids), made.sizes["held_out"]) == (50, 50, 0)


def test_with_fewer_than_thirty_such_tasks_everything_is_promoted(services: Services, validating: Trainer) -> None:
    annotate(services, *range(1, 30))
    run(services, validating)
    Validating.spoiled = True
    assert "promoted: too few to compare" in run(services, validating).ending


def test_once_enough_is_held_out_that_alone_decides(services: Services, validating: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, validating)
    run(services, validating)
    assert services.registry.get(UID, 2).manifest.metrics.compared_on == 30


def test_what_began_from_its_parents_weights_has_left_nothing_out(services: Services, validating: Trainer) -> None:
    annotate(services, *range(1, 41))
    run(services, validating)
    Validating.warm = Validating.spoiled = True
    assert "promoted: too few to compare" in run(services, validating).ending
    assert services.registry.get(UID, 2).manifest.left_out == ""


@pytest.mark.parametrize("damage", ["cut short", "of an older release"])
def test_without_a_readable_record_of_the_version_that_serves_nothing_is_compared_by_it(
    services: Services, validating: Trainer, tmp_path: Path, damage: str
) -> None:
    annotate(services, *range(1, 41))
    run(services, validating)
    path = tmp_path / "versions" / UID / "1" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    whole = manifest.pop("left_out")
    path.write_text(json.dumps(manifest if damage == "of an older release" else {**manifest, "left_out": whole[:-8]}))
    assert "promoted: too few to compare" in run(services, validating).ending
    assert services.registry.get(UID, 2).manifest.left_out != ""


class Ended(Switchable):
    """While what serves is scored, the run is told to end."""

    word: RunEnded

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if self.model_version == "incumbent":
            raise type(self).word
        return super().predict(tasks, context, **kwargs)


@pytest.mark.parametrize(("word", "status"), [(WorkerStopping("stop"), "queued"), (RunTimedOut("too long"), "failed")])
def test_a_word_to_end_is_heard_while_what_serves_is_scored(
    services: Services, trainer: Trainer, word: RunEnded, status: str
) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    Ended.word = word
    trainer._make_model = lambda uid, config, params: Ended(uid, config, extra_params=params)
    assert run(services, trainer).status == status
    assert [one.number for one in services.registry.versions(UID)] == [1]


def test_the_project_may_ask_for_better_versions_only(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    services.state.setup(UID, CONFIG, '{"refit": {"promote": {"when": "better"}}}', time.time())
    done = run(services, trainer)
    assert services.registry.serving(UID).number == 1
    assert "not better than what serves" in done.ending


def test_while_a_version_is_pinned_new_ones_are_kept_aside(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    services.state.setup(UID, CONFIG, '{"refit": {"serve": 1}}', time.time())
    assert "version 1 is pinned" in run(services, trainer).ending
    assert services.registry.serving(UID).number == 1


def test_pinning_an_older_version_lets_it_serve_again_with_the_reason(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    run(services, trainer)
    clock = services.clock()
    while clock.tick(time.time()):
        pass
    services.state.setup(UID, CONFIG, '{"refit": {"serve": 1}}', time.time())
    assert clock.tick(time.time()) == 1, "new settings wake the clock"
    assert services.registry.serving(UID).number == 1
    assert "pinned" in {one["kind"] for one in services.state.decisions(UID)}


def test_the_parents_files_are_there_to_start_from(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    seen: list[Path | None] = []
    Switchable.during = lambda training_run: seen.append(training_run.previous)
    run(services, trainer)
    assert seen[0] is not None
    assert (seen[0] / "words.json").is_file()


@pytest.mark.parametrize("warm", [True, False])
def test_who_begins_from_the_parents_weights_knows_its_tasks_too(
    services: Services, trainer: Trainer, warm: bool
) -> None:
    annotate(services, *range(1, 13))
    run(services, trainer)
    services.state.record(AnnotationsDeleted("ANNOTATIONS_DELETED", PROJECT, (1,)), time.time())
    Switchable.during = lambda training_run: training_run.previous if warm else None
    run(services, trainer)
    assert services.registry.serving(UID).manifest.trained_on_ids == set(range(1 if warm else 2, 13))


class Outspoken(CountingModel):
    """Its score is what the connection's extra params say."""

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return [{**one, "score": self.extra_params["own"]} for one in super().predict(tasks, context, **kwargs)]


@pytest.mark.parametrize(("strategy", "score"), [("margin", 0.125), ("confidence", 19 / 20), ("priority", 0.125)])
def test_what_serves_knows_the_projects_extra_params_and_how_it_ranks(
    services: Services, trainer: Trainer, strategy: str, score: float
) -> None:
    annotate(services, *range(1, 13))
    params = f'{{"own": 0.125, "refit": {{"predictions": {{"strategy": "{strategy}"}}}}}}'
    services.state.setup(UID, CONFIG, params, time.time())
    run(services, trainer)
    web = make_services(services.settings, timeout_s=5, model_class=Outspoken)
    try:
        [[prediction]] = web.server.predict(UID, [{"id": 1, "data": {"text": "good good good"}}], CONFIG)
    finally:
        web.close()
    assert prediction["score"] == score


def test_a_run_whose_turn_it_is_not_does_nothing(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 13))
    trainer.run(UID, "7-1795333883-99", "worker-1")
    assert services.registry.versions(UID) == []


def _no_keeper(_lease: Lease) -> AbstractContextManager[Any]:
    from contextlib import nullcontext

    class Blind:
        cancelled = False
        lost = False

    return nullcontext(Blind())


def test_not_trainable_is_public() -> None:
    assert issubclass(NotTrainable, Exception)


def test_what_a_killed_attempt_left_in_the_work_folder_is_removed_by_the_next_run_of_its_project(
    services: Services, trainer: Trainer, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for left in ("7-1795333883-4-2", "77-1795333883-1-1"):
        (work / left / "files").mkdir(parents=True)
    annotate(services, *range(1, 13))
    run(services, trainer)
    assert [one.name for one in work.iterdir()] == ["77-1795333883-1-1"]


def test_somebody_keeps_the_lease_while_what_a_killed_attempt_left_is_removed(
    services: Services, trainer: Trainer, tmp_path: Path
) -> None:
    left = tmp_path / "work" / "7-1795333883-4-2"
    left.mkdir(parents=True)
    seen = []

    @contextmanager
    def keep(lease: Lease) -> Iterator[Any]:
        seen.append(left.is_dir())
        with _no_keeper(lease) as keeper:
            yield keeper

    trainer._keep = keep
    annotate(services, *range(1, 13))
    run(services, trainer)
    assert seen == [True]
    assert not left.exists()


def test_only_a_run_that_was_handed_back_is_said_to_have_been(
    services: Services, trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any) -> None:
        raise WorkerStopping("stop")

    annotate(services, *range(1, 13))
    trainer._promoted = stop
    assert run(services, trainer).status == "succeeded"
    assert "handed back" not in caplog.text
    Switchable.during = stop
    assert run(services, trainer).status == "queued"
    assert "handed back, its worker was asked to stop" in caplog.text


class Looking(CountingModel):
    """Reads each task's file, in training, when it is compared, and where it predicts."""

    def train(self, data: Any, run: Any) -> dict[str, float] | None:
        assert [example.path("$file").read_text() for example in data] == ["a file"] * len(data)
        assert all(path.is_relative_to(run.directory.parent) for path in [example.path("file") for example in data])
        return super().train(data, run)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        assert all(self.path(task, "file").read_text() == "a file" for task in tasks)
        return super().predict(tasks, context, **kwargs)


def test_a_run_has_its_tasks_files_and_leaves_none_behind(services: Services, tmp_path: Path) -> None:
    for number in range(1, 161):
        label = "good" if number % 2 else "bad"
        region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        when = CREATED_US + number * 1_000_000
        data = {"text": f"a {label} thing", "file": "data:,a%20file"}
        written = Annotation(number, number, [region], created_at_us=when, updated_at_us=when)
        task = Task(number, data, when, when)
        services.state.record(AnnotationsWritten("ANNOTATION_CREATED", PROJECT, (written,), (task,)), time.time())
    trainer = services.trainer()
    trainer._make_model = lambda uid, config, params: Looking(uid, config, extra_params=params)
    done = run(services, trainer)
    assert (done.status, services.registry.serving(UID).manifest.metrics.compared_on) == ("succeeded", 32)
    assert not list((services.settings.data_dir / "work").rglob("*.*"))
