"""Fresh predictions: which tasks get one, in which order and at what pace; what crashes, rivals and people change."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ml_backend.bootstrap import Services, make_services
from ml_backend.errors import LabelStudioRefused, LabelStudioUnreachable, WorkerStopping
from ml_backend.events import Annotation, AnnotationsWritten, Project, ProjectChanged, Task, TasksCreated
from ml_backend.label_studio import StoredPrediction
from ml_backend.refresh import Records, Refresher, planning
from ml_backend.refresh.planning import Kept, Known, Pace, Ranking, Standing
from ml_backend.registry import Manifest
from ml_backend.settings import PredictionSettings, Settings
from tests.models.shuffling import Shuffling, rank
from tests.paper import CREATED_US, UID, PaperLabelStudio, as_api

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="even"/><Choice value="odd"/></Choices></View>'
)
DAY_S = 24 * 3600.0
RULES = PredictionSettings()


class Bench:
    """A project with versions, a Label Studio on paper, and a refresher whose pauses take no time."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        self.folder = folder
        self.studio = PaperLabelStudio(CONFIG)
        self.studio.connect("my model")
        self.studio.setup = lambda: services.server.served(UID) or ""
        self.records = Records(services.redis)
        self.now = time.time()
        self.pauses: list[float] = []
        self.params({})
        services.redis.hset(f"mlb:{{{UID}}}:meta", "trained_size", "9")

    def params(self, predictions: dict[str, Any]) -> None:
        """What the connection's extra params say."""
        text = orjson.dumps({"refit": {"predictions": predictions}}).decode()
        self.services.state.setup(UID, CONFIG, text, self.now)

    def promote(self, learned: int) -> str:
        """Publish and promote a version; its connection names it in /setup."""
        registry = self.services.registry
        number = registry.new_number(UID)
        files = self.folder / f"files-{number}"
        files.mkdir()
        (files / "learned.txt").write_text(str(learned))
        version = registry.publish(UID, number, files, Manifest(label_config=CONFIG), lambda: True, now=time.time())
        registry.promote(UID, number, token=number, now=time.time())
        return version.name

    def accept(self, *tasks: int) -> None:
        """Create annotations from predictions."""
        accepted = {number: one.task for number, one in self.studio.predictions.items() if one.task in tasks}
        self.studio.parents |= set(accepted)
        event = AnnotationsWritten(
            "ANNOTATIONS_CREATED",
            Project(id=7, created_at_us=CREATED_US, label_config=CONFIG),
            tuple(
                Annotation(task, task, [], created_at_us=CREATED_US, parent_prediction=parent, bulk_accepted=True)
                for parent, task in accepted.items()
            ),
            tuple(Task(task, {"text": f"number {task}"}, CREATED_US, CREATED_US) for task in tasks),
        )
        self.services.state.record(event, self.now)

    def refresh(self, pause: Any = None) -> Standing:
        """One job of a worker."""
        refresher = Refresher(
            self.services.state,
            self.records,
            self.services.registry,
            self.services.project_settings,
            lambda uid, config, params: Shuffling(uid, config, extra_params=params),
            lambda: as_api(self.studio),
            served=self.services.server.served,
            clock=lambda: self.now,
            pause=pause or self.pauses.append,
        )
        refresher.run(UID)
        return self.records.read(UID)

    def decisions(self) -> list[str]:
        return [one["reason"] for one in self.services.state.decisions(UID)]


@pytest.fixture
def bench(redis_socket: Path, tmp_path: Path) -> Iterator[Bench]:
    environment = {"REDIS_URL": f"unix://{redis_socket}", "ML_BACKEND_DATA_DIR": str(tmp_path / "data")}
    services = make_services(Settings.from_environment(environment), timeout_s=5)
    services.redis.flushall()
    yield Bench(services, tmp_path)
    services.close()


def lowest_first(numbers: Any, learned: int) -> list[int]:
    return sorted(numbers, key=lambda number: rank(number, learned))


# --- one refresh ------------------------------------------------------------------------------------------------------


def test_every_task_within_the_limit_gets_one_prediction_of_the_version(bench: Bench) -> None:
    bench.studio.add(*range(1, 91))
    name = bench.promote(5)
    assert bench.refresh().status == "done"
    assert Counter(bench.studio.held(name)) == dict.fromkeys(range(1, 91), 1)
    assert bench.decisions() == [f"{name}: 90 tasks have got a fresh prediction"]


def test_the_lowest_scores_come_first_and_labelled_tasks_last(bench: Bench) -> None:
    bench.studio.add(*range(1, 81))
    bench.studio.add(*range(81, 121), labelled=True)
    bench.params({"limit": 100})
    bench.promote(5)
    bench.refresh()
    sent = [task for batch in bench.studio.batches for task in batch]
    assert sent[:80] == lowest_first(range(1, 81), 5)
    assert sent[80:] == list(range(120, 100, -1)), "then the latest of the labelled ones"


def test_a_limit_takes_the_most_useful_ones(bench: Bench) -> None:
    bench.studio.add(*range(1, 201))
    bench.params({"limit": 30})
    name = bench.promote(5)
    bench.refresh()
    assert bench.studio.held(name) == lowest_first(range(1, 201), 5)[:30]


def test_the_order_moves_to_the_version_after_the_first_batch(bench: Bench) -> None:
    bench.studio.add(*range(1, 301))
    name = bench.promote(5)
    bench.refresh()
    assert bench.studio.moved == [f"{name} after 1"]
    assert len(bench.studio.batches) > 1
    assert bench.studio.backends[0].title == name


def test_a_version_that_somebody_chose_is_left_in_force(bench: Bench) -> None:
    bench.studio.add(1, 2)
    bench.studio.predictions[1] = StoredPrediction(1, [], 0.5, "theirs")
    bench.studio.model_version = "theirs"
    name = bench.promote(5)
    standing = bench.refresh()
    assert bench.studio.model_version == "theirs"
    assert "'theirs', which somebody chose" in standing.reason
    assert bench.studio.held(name)


def test_show_false_hides_predictions_and_keeps_the_order(bench: Bench) -> None:
    bench.studio.add(1, 2)
    bench.studio.model_version = ""
    bench.params({"show": False})
    name = bench.promote(5)
    bench.refresh()
    assert (bench.studio.model_version, bench.studio.show) == (name, False)
    bench.params({"show": True})
    again = bench.promote(6)
    bench.refresh()
    assert (bench.studio.model_version, bench.studio.show) == (again, True), "what was hidden by us is shown again"


def test_a_refresh_that_is_repeated_changes_nothing(bench: Bench) -> None:
    bench.studio.add(*range(1, 51))
    name = bench.promote(5)
    bench.refresh()
    bench.refresh()
    assert Counter(bench.studio.held(name)) == dict.fromkeys(range(1, 51), 1)
    assert len(bench.decisions()) == 1


def test_a_task_that_is_deleted_meanwhile_takes_no_other_along(bench: Bench) -> None:
    bench.studio.add(*range(1, 51))
    name = bench.promote(5)

    def deletes(call: str) -> None:
        if call == "import_predictions":
            bench.studio.tasks.pop(7, None)

    bench.studio.before = deletes
    assert bench.refresh().status == "done"
    assert sorted(bench.studio.held(name)) == [one for one in range(1, 51) if one != 7]


def test_a_task_whose_data_changed_meanwhile_is_predicted_from_the_new_data(bench: Bench) -> None:
    bench.studio.add(1, 2)
    name = bench.promote(5)

    def edits(call: str) -> None:
        if call == "plain_tasks_by_id":
            old = bench.studio.tasks[1]
            bench.studio.tasks[1] = type(old)(1, {"text": "number 40"}, old.created_at_us, 0, False, frozenset())

    bench.studio.before = edits
    bench.refresh()
    scores = {one.task: one.score for one in bench.studio.predictions.values() if one.model_version == name}
    assert scores == {1: rank(40, 5), 2: rank(2, 5)}


def test_another_project_under_the_same_id_is_not_touched(bench: Bench) -> None:
    bench.studio.add(1)
    bench.studio.uid_of_project = 8
    bench.promote(5)
    standing = bench.refresh()
    assert standing.status == "failed"
    assert "is not the one that this backend knows" in standing.reason
    assert not bench.studio.predictions


# --- what comes later -------------------------------------------------------------------------------------------------


def test_new_tasks_are_predicted_whatever_the_limit_has_left(bench: Bench) -> None:
    bench.studio.add(*range(1, 61))
    bench.params({"limit": 10})
    name = bench.promote(5)
    bench.refresh()
    bench.studio.add(101, 102)
    bench.refresh()
    assert {101, 102} <= set(bench.studio.held(name))
    assert len(bench.studio.held(name)) == 12, "tasks that were left out before stay out"


def test_predictions_that_were_accepted_as_labels_stay(bench: Bench) -> None:
    """Label Studio forgets with them that the labels are a model's own guesses."""
    bench.studio.add(*range(1, 11))
    first = bench.promote(5)
    bench.refresh()
    bench.accept(3, 4)
    second = bench.promote(6)
    bench.refresh()
    bench.now += DAY_S + 60
    said = bench.refresh().reason
    assert f"the predictions of {first} (but for 2 accepted as labels) are deleted" in said
    assert sorted(bench.studio.held(first)) == [3, 4]
    assert {3, 4} <= set(bench.studio.held(second))
    bench.promote(7)
    bench.refresh()
    bench.now += DAY_S + 60
    said = bench.refresh().reason
    assert f"the predictions of {second} are deleted" in said
    assert first not in said, "nothing was left to delete"
    assert sorted(bench.studio.held(first)) == [3, 4]
    assert bench.studio.held(second) == [], "nobody accepted those"


def test_predictions_of_the_version_before_stay_for_a_day_and_go_then(bench: Bench) -> None:
    bench.studio.add(*range(1, 11))
    bench.studio.predictions[900] = StoredPrediction(1, [], 0.5, "theirs")
    first = bench.promote(5)
    bench.refresh()
    second = bench.promote(6)
    bench.refresh()
    bench.now += DAY_S - 60
    bench.refresh()
    assert len(bench.studio.held(first)) == 10, "somebody may have one of them open (fact 19)"
    bench.now += 120
    said = bench.refresh().reason
    assert bench.studio.held(first) == []
    assert f"the predictions of {first} are deleted" in said
    assert len(bench.studio.held(second)) == 10
    assert bench.studio.held("theirs") == [1]
    assert bench.studio.model_version == second


def test_a_roll_back_uses_the_predictions_that_are_still_there(bench: Bench) -> None:
    bench.studio.add(*range(1, 11))
    first = bench.promote(5)
    bench.refresh()
    bench.promote(6)
    bench.refresh()
    bench.services.registry.rollback(UID, now=bench.now)
    bench.now += 2 * DAY_S
    bench.refresh()
    assert Counter(bench.studio.held(first)) == dict.fromkeys(range(1, 11), 1)
    assert bench.studio.model_version == first


def test_a_newer_promotion_takes_over_after_the_first_batch(bench: Bench) -> None:
    bench.studio.add(*range(1, 301))
    first = bench.promote(5)
    newer: list[str] = []

    def promotes(call: str) -> None:
        if call == "stored" and not newer:
            newer.append(bench.promote(6))

    bench.studio.before = promotes
    standing = bench.refresh()
    assert len(bench.studio.batches) == 1
    assert (standing.status, standing.reason) == ("waiting", f"{newer[0]} takes over from {first}")
    bench.refresh()
    assert Counter(bench.studio.held(newer[0])) == dict.fromkeys(range(1, 301), 1)
    assert bench.studio.model_version == newer[0]


# --- crashes, cancellation, failures ----------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def dies_at(bench: Bench, call: str, which: int) -> None:
    """The worker is killed at the ``which``-th such call; its hold runs out."""
    seen = 0

    def dies(name: str) -> None:
        nonlocal seen
        seen += name == call
        if name == call and seen == which:
            raise Killed

    bench.studio.before = dies
    with pytest.raises(Killed):
        bench.refresh()
    bench.studio.before = lambda _name: None
    bench.services.redis.delete(f"mlb:{{{UID}}}:refresh-lock")


@pytest.mark.parametrize(
    ("call", "which"),
    [
        ("project", 1),
        ("plain_tasks", 2),
        ("import_predictions", 1),
        ("stored", 1),
        ("rename_connection", 1),
        ("plain_tasks_by_id", 2),
        ("import_predictions", 2),
        ("stored", 2),
    ],
)
def test_whenever_a_worker_is_killed_the_next_one_leaves_one_prediction_for_each_task(
    bench: Bench, call: str, which: int
) -> None:
    bench.studio.add(*range(1, 251))
    name = bench.promote(5)
    dies_at(bench, call, which)
    assert bench.refresh(pause=lambda seconds: advance(bench, seconds)).status == "done"
    assert Counter(bench.studio.held(name)) == dict.fromkeys(range(1, 251), 1)
    assert bench.studio.model_version == name


def test_a_batch_that_arrives_after_its_sender_died_is_waited_for(bench: Bench) -> None:
    bench.studio.add(*range(1, 51))
    name = bench.promote(5)
    on_its_way: list[StoredPrediction] = []
    take = bench.studio.import_predictions
    bench.studio.import_predictions = lambda _id, sent: on_its_way.extend(sent) or die()  # type: ignore[method-assign]
    with pytest.raises(Killed):
        bench.refresh()
    bench.services.redis.delete(f"mlb:{{{UID}}}:refresh-lock")
    bench.studio.import_predictions = take  # type: ignore[method-assign]

    def arrives(seconds: float) -> None:
        advance(bench, seconds)
        if on_its_way:
            take(7, on_its_way)
            on_its_way.clear()

    bench.refresh(pause=arrives)
    assert Counter(bench.studio.held(name)) == dict.fromkeys(range(1, 51), 1)


def die() -> int:
    raise Killed


def advance(bench: Bench, seconds: float) -> None:
    bench.now += seconds


def test_a_worker_that_is_asked_to_stop_hands_the_rest_on(bench: Bench) -> None:
    bench.studio.add(*range(1, 251))
    name = bench.promote(5)

    def stops(_seconds: float) -> None:
        if bench.studio.batches:
            raise WorkerStopping("the worker was asked to stop")

    with pytest.raises(WorkerStopping):
        bench.refresh(pause=stops)
    assert bench.records.read(UID).status == "waiting"
    assert not bench.records.read(UID).held
    bench.refresh()
    assert Counter(bench.studio.held(name)) == dict.fromkeys(range(1, 251), 1)


def test_a_cancelled_refresh_stops_before_its_next_batch_and_is_not_taken_up_again(bench: Bench) -> None:
    bench.studio.add(*range(1, 301))
    name = bench.promote(5)

    def cancels(call: str) -> None:
        if call == "stored":
            assert bench.records.cancel(UID)

    bench.studio.before = cancels
    assert bench.refresh().status == "cancelled"
    assert len(bench.studio.batches) == 1
    assert bench.decisions() == ["fresh predictions were cancelled"]
    assert planning.due(bench.records.read(UID), Known(name, None, 0, None), bench.now) == planning.Due()


def test_only_one_worker_at_a_time_refreshes_a_project(bench: Bench) -> None:
    bench.studio.add(1)
    bench.promote(5)
    hold = bench.records.take(UID)
    assert hold is not None
    bench.refresh()
    assert bench.studio.calls == []
    bench.records.release(hold)
    assert bench.refresh().status == "done"


def test_a_worker_that_lost_its_hold_sends_nothing_more(bench: Bench) -> None:
    bench.studio.add(*range(1, 301))
    bench.promote(5)

    def loses(call: str) -> None:
        if call == "stored":
            bench.services.redis.set(f"mlb:{{{UID}}}:refresh-lock", "another")

    bench.studio.before = loses
    bench.refresh()
    assert len(bench.studio.batches) == 1


def test_a_label_studio_that_is_away_is_a_reason_and_tried_again(bench: Bench) -> None:
    bench.studio.add(1)
    name = bench.promote(5)

    def away(_call: str) -> None:
        raise LabelStudioUnreachable("Label Studio at http://ls does not answer")

    bench.studio.before = away
    standing = bench.refresh()
    assert standing.status == "failed"
    assert bench.decisions() == ["predictions could not be refreshed: Label Studio at http://ls does not answer"]
    again = bench.refresh()
    assert again.failures == 2
    assert len(bench.decisions()) == 1, "the same reason is said once"
    known = Known(name, None, 0, None)
    assert again.retry_at is not None
    assert planning.due(again, known, bench.now).look_at == again.retry_at
    assert planning.due(again, known, again.retry_at).ask is not None
    bench.studio.before = lambda _call: None
    assert (bench.refresh().status, bench.records.read(UID).failures) == ("done", 0)


def test_a_refusal_that_stays_is_no_endless_loop(bench: Bench) -> None:
    bench.studio.add(1)
    bench.promote(5)

    def refuses(call: str) -> None:
        if call == "import_predictions":
            raise LabelStudioRefused(400, "invalid")

    bench.studio.before = refuses
    assert bench.refresh().status == "failed"
    assert bench.studio.calls.count("import_predictions") < 10


def test_time_that_is_up_ends_it_with_what_was_done(bench: Bench) -> None:
    bench.studio.add(*range(1, 301))
    bench.params({"max_seconds": 0.2})
    name = bench.promote(5)
    standing = bench.refresh(pause=lambda _seconds: time.sleep(0.15))
    assert standing.status == "done"
    assert 0 < len(bench.studio.held(name)) < 300
    assert "time" in standing.reason


# --- when -------------------------------------------------------------------------------------------------------------


def test_without_address_and_key_there_is_one_reason_and_nothing_else(bench: Bench) -> None:
    bench.promote(5)
    project = bench.services.state.load(UID)
    assert project is not None
    for _ in range(3):
        bench.services.refreshing().consider(project, bench.now)
    assert bench.decisions() == [
        "fresh predictions are not sent: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are not set"
    ]
    assert bench.services.jobs().depth("predict") == 0


def test_a_promotion_enqueues_one_refresh_however_often_it_is_looked_at(bench: Bench, redis_socket: Path) -> None:
    environment = {
        "REDIS_URL": f"unix://{redis_socket}",
        "ML_BACKEND_DATA_DIR": str(bench.folder / "data"),
        "LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "LABEL_STUDIO_API_KEY": "0" * 40,
    }
    services = make_services(Settings.from_environment(environment), timeout_s=5)
    bench.promote(5)
    for second in range(3):
        services.refreshing().promoted(UID, bench.now + second)
    assert services.jobs().depth("predict") == 1
    assert bench.records.read(UID).status == "waiting"
    services.close()


def test_created_tasks_are_noted_when_their_event_comes(bench: Bench) -> None:
    project = Project(id=7, created_at_us=CREATED_US)
    bench.services.state.record(ProjectChanged("PROJECT_UPDATED", project), 50.0)
    assert bench.services.state.load(UID).last_tasks_at is None  # type: ignore[union-attr]
    bench.services.state.record(TasksCreated("TASKS_CREATED", project, 3), 60.0)
    assert bench.services.state.load(UID).last_tasks_at == 60.0  # type: ignore[union-attr]


DONE = Standing(status="done", version="v2", covers="v2", tasks_at=50.0, task_number=10, ended=100.0)
SERVES_V2 = Known("v2", 50.0, 10, None)


@pytest.mark.parametrize(
    ("standing", "known", "asked"),
    [
        pytest.param(Standing(), SERVES_V2, True, id="the first version"),
        pytest.param(DONE, Known("v3", 50.0, 10, None), True, id="a newer version, or one rolled back to"),
        pytest.param(DONE, SERVES_V2, False, id="all is done"),
        pytest.param(DONE, Known("v2", 90.0, 10, None), True, id="tasks were created"),
        pytest.param(DONE, Known("v2", 109.0, 10, None), False, id="an import that may go on"),
        pytest.param(DONE, Known("v2", 50.0, 11, None), True, id="there are more tasks, and no event told of them"),
        pytest.param(Standing(status="running", version="v2"), SERVES_V2, True, id="its worker is gone"),
        pytest.param(Standing(status="running", version="v2", held=True), SERVES_V2, False, id="a worker is at it"),
        pytest.param(Standing(status="cancelled", version="v2"), SERVES_V2, False, id="it was cancelled"),
        pytest.param(Standing(status="off", version="v2"), SERVES_V2, True, id="it was switched on again"),
    ],
)
def test_a_refresh_is_due(standing: Standing, known: Known, asked: bool) -> None:
    assert (planning.due(standing, known, 110.0).ask is not None) == asked


def test_tasks_that_nobody_reported_are_looked_for_now_and_then() -> None:
    assert planning.due(DONE, SERVES_V2, 110.0).look_at == 1000.0
    assert planning.due(DONE, SERVES_V2, 1000.0).ask == "a look for tasks that nobody reported"


def test_old_predictions_wake_the_clock_when_they_can_go() -> None:
    standing = Standing(status="done", version="v2", ended=1e6, marks={"v1": 1e6 - planning.OPEN_S + 100})
    known = Known("v2", None, 0, None)
    assert planning.due(standing, known, 1e6).look_at == 1e6 + 100
    assert planning.due(standing, known, 1e6 + 100).ask == "predictions of earlier versions can go"


@pytest.mark.parametrize(
    ("settings", "missing", "reason"),
    [
        (RULES, (), None),
        (PredictionSettings(enabled=False), (), "fresh predictions are switched off"),
        (PredictionSettings(limit=0), (), "fresh predictions are switched off: their limit is 0"),
        (RULES, ("LABEL_STUDIO_API_KEY",), "fresh predictions are not sent: LABEL_STUDIO_API_KEY is not set"),
    ],
)
def test_what_blocks_it_is_said(settings: PredictionSettings, missing: tuple[str, ...], reason: str | None) -> None:
    assert planning.blocked(settings, missing) == reason


# --- how much, how fast -----------------------------------------------------------------------------------------------


def test_it_takes_no_longer_than_the_last_training_but_two_minutes_are_always_allowed() -> None:
    assert planning.budget_s(RULES, 3.0) == 120.0
    assert planning.budget_s(RULES, 600.0) == 600.0
    assert planning.budget_s(PredictionSettings(max_seconds=10), 600.0) == 10.0


def test_batches_shrink_where_storing_is_slow_and_grow_where_it_is_fast() -> None:
    slow, fast = Pace(), Pace()
    for _ in range(9):
        fast.stored(fast.size, 0.4)
    assert fast.size == 200
    for _ in range(9):
        slow.stored(slow.size, 0.006 * slow.size)
    assert slow.size == pytest.approx(133, abs=1), "so many take 0.8 s"
    for _ in range(9):
        slow.stored(slow.size, 0.03 * slow.size)
    assert slow.size == 100, "smaller ones would cost more than they spare"


def test_a_batch_that_met_a_submit_makes_the_next_no_smaller() -> None:
    pace = Pace()
    for _ in range(3):
        pace.stored(pace.size, 0.4)
    pace.stored(pace.size, 2.0)
    assert pace.size == 200


def test_pauses_are_three_times_as_long_as_the_work() -> None:
    assert Pace.rest_s(0.3) == pytest.approx(0.9)
    assert Pace.rest_s(60.0) == 5.0


def test_a_ranking_keeps_the_lowest_and_their_predictions_alone() -> None:
    ranking = Ranking(3)
    for task, score in enumerate([0.9, 0.1, 0.5, 0.3, 0.2], start=1):
        ranking.add(task, score, Kept(b"", [], score))
    assert ranking.picks() == [2, 5, 4]
    assert ranking.take(1) is None
    kept = ranking.take(5)
    assert kept is not None
    assert kept.score == 0.2


def test_equal_scores_come_in_the_order_of_their_tasks() -> None:
    ranking = Ranking(2)
    for task in (3, 1, 2):
        ranking.add(task, 0.5, Kept(b"", [], 0.5))
    assert ranking.picks() == [1, 2]


def test_a_ranking_without_room_takes_nothing() -> None:
    ranking = Ranking(0)
    ranking.add(1, 0.5, Kept(b"", [], 0.5))
    ranking.add_labelled([2])
    assert ranking.picks() == []
