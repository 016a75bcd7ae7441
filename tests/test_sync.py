"""Sync: when it is due, who carries it out, what a failure does. A real Valkey; a Label Studio that fails on demand."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ml_backend.errors import Unavailable
from ml_backend.events import parse
from ml_backend.jobs import Jobs
from ml_backend.label_studio import LabelStudioApi
from ml_backend.state import ProjectState, State, SyncState
from ml_backend.state.due import DueList
from ml_backend.state.purge import Purge
from ml_backend.sync import Access, Due, Later, Standing, Standings, Syncer, Syncs, plan
from ml_backend.sync.plan import may_differ
from tests.loopback import Answer, Loopback, Received
from tests.running import wait_until
from tests.valkey import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

UID = "7.1795333883"
CREATED = "2026-11-22T07:51:23.096964Z"
CONFIG = '<View><Text name="t" value="$text"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
KEY = "a-legacy-token"
DAY_S = 86400.0
NOW = 1_795_400_000.0


# --- a Label Studio that fails on demand ---------------------------------------------------------------------------


@dataclass
class FakeLabelStudio:
    """Answers what a sync asks for. ``fail`` may answer in its place; ``page`` is the largest it gives."""

    tasks: dict[int, list[int]] = field(default_factory=dict)
    page: int = 1000
    created: str = CREATED
    id: int = 7
    text: int = 0
    """Letters in each task's text, beside the shortest."""
    fail: Callable[[Received], Answer | None] = lambda request: None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: Received) -> Answer:
        if (failed := self.fail(request)) is not None:
            return failed
        parts = urlsplit(request.path)
        if parts.path == "/api/tasks/":
            return self._page({name: values[0] for name, values in parse_qs(parts.query).items()})
        return Answer(self._project())

    def _project(self) -> dict[str, Any]:
        count = sum(map(len, self.tasks.values()))
        return {
            "id": self.id,
            "title": "faked",
            "created_at": self.created,
            "label_config": CONFIG,
            "task_number": len(self.tasks),
            "finished_task_number": len(self.tasks),
            "total_predictions_number": 0,
            "total_annotations_number": count,
            "num_tasks_with_annotations": sum(bool(found) for found in self.tasks.values()),
            "useful_annotation_number": count,
            "ground_truth_number": 0,
            "skipped_annotations_number": 0,
        }

    def _page(self, query: dict[str, str]) -> Answer:
        items = {one["filter"].rpartition(":")[2]: one for one in json.loads(query["query"])["filters"]["items"]}
        self.asked.append(items)
        unlabelled = items["annotations_ids"]["value"]
        after = items["id"]["value"]
        fits = [one for one in sorted(self.tasks) if one > after and bool(self.tasks[one]) is not unlabelled]
        if not fits:
            return Answer({"tasks": [], "total": 0})
        shown = [self._task(one) for one in fits[: min(self.page, int(query["page_size"]))]]
        return Answer({"tasks": shown, "total": len(fits)})

    def _task(self, one: int) -> dict[str, Any]:
        date = "2026-11-22T08:00:00Z"
        annotations = [
            {
                "id": annotation,
                "result": [{"type": "choices", "value": {"choices": ["a"]}}],
                "completed_by": 1,
                "was_cancelled": False,
                "ground_truth": False,
                "parent_prediction": None,
                "updated_by": 1,
                "created_at": date,
                "updated_at": date,
            }
            for annotation in self.tasks[one]
        ]
        known = ",".join(map(str, self.tasks[one]))
        return {
            "id": one,
            "data": {"text": f"text {one}" + "x" * self.text},
            "created_at": date,
            "updated_at": date,
            "annotations": annotations,
            "annotations_ids": known,
        }


@pytest.fixture
def studio() -> FakeLabelStudio:
    return FakeLabelStudio({number: [100 + number] for number in range(1, 31)})


class House:
    """The parts around a fake Label Studio. ``patience_s``: how long the client repeats a failing request;
    ``longest_s``: how long it waits for an answer, at most."""

    def __init__(self, client: redis.Redis, url: str | None, key: str | None = KEY) -> None:
        self.now = NOW
        self.access = Access(url, key)
        self.state, self.standings, self.jobs = State(client), Standings(client), Jobs(client)
        self.due = DueList(client)
        self.patience_s = 0.0
        self.longest_s = 60.0
        self.opened = 0
        every, quiet = DAY_S, 2.0
        self.syncs = Syncs(
            self.state, self.due, self.standings, self.jobs, self.access, every=every, quiet=lambda _: quiet
        )
        self.syncer = Syncer(
            self.state,
            SyncState(client),
            self.standings,
            self.access,
            self.open,
            every=every,
            quiet=lambda _: quiet,
            clock=lambda: self.now,
        )

    def open(self, timeout_s: float, patience_s: float, pause: Callable[[float], None]) -> LabelStudioApi:
        self.opened += 1
        assert self.access.url is not None
        timeout_s = min(timeout_s, self.longest_s)
        return LabelStudioApi(self.access.url, KEY, timeout_s=timeout_s, patience_s=self.patience_s, pause=pause)

    def connect(self) -> None:
        """What /setup does."""
        self.state.setup(UID, CONFIG, None, self.now)

    def project(self) -> ProjectState:
        found = self.state.load(UID)
        assert found is not None
        return found

    def standing(self) -> Standing:
        return self.standings.load(UID)

    def annotations(self) -> int:
        return self.project().derived.total_annotations_number

    def sync(self, after_s: float = 0.0) -> None:
        self.now += after_s
        self.syncer.sync(UID)

    def reasons(self) -> str:
        return "\n".join(one["reason"] for one in self.state.decisions(UID))

    def event(self, task: int, annotation: int, counters: dict[str, int] | None = None) -> None:
        """An ANNOTATION_CREATED."""
        project = {"id": 7, "created_at": CREATED, **(counters or {})}
        entry = {"id": annotation, "result": [], "created_at": _moment(), "updated_at": _moment()}
        entry_task = {"id": task, "data": {"text": "new"}, "created_at": CREATED, "updated_at": _moment()}
        data = {"annotation": entry, "task": entry_task, "project": project}
        self.state.record(parse("ANNOTATION_CREATED", data), self.now)


def _moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())


@pytest.fixture
def fake(studio: FakeLabelStudio) -> Iterator[Loopback]:
    with Loopback(studio.answer) as server:
        yield server


@pytest.fixture
def house(valkey: redis.Redis, fake: Loopback) -> House:
    found = House(valkey, fake.url)
    found.connect()
    return found


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(house: House) -> ProjectState:
    """A project that was read completely a moment ago, and does not differ."""
    house.sync()
    return house.project()


def decided(project: ProjectState, standing: Standing = Standing(), at: float = NOW) -> Due | Later:  # noqa: B008 - frozen
    return plan(project, standing, every=DAY_S, quiet=2.0, now=at)


def test_a_project_that_was_never_read_is_read_completely_at_once(house: House) -> None:
    assert decided(house.project()) == Due("complete", "Label Studio was not asked yet for what it holds")


def test_a_project_that_agrees_waits_for_the_schedule(settled: ProjectState) -> None:
    assert decided(settled) == Later(NOW + DAY_S, "on schedule, every 86400 s")
    assert decided(settled, at=NOW + DAY_S) == Due("complete", "on schedule, every 86400 s")


def test_a_difference_is_asked_about_after_the_quiet_period(settled: ProjectState) -> None:
    drifted = replace(
        settled, drift={"total_annotations_number": 3, "skipped_annotations_number": 0}, drift_since=NOW + 5
    )
    reason = "Label Studio counts differently: total_annotations_number +3"
    assert decided(drifted, at=NOW + 6) == Later(NOW + 7, reason)
    assert decided(drifted, at=NOW + 7) == Due("incremental", reason)


def test_a_difference_that_a_sync_left_leads_to_a_complete_one(settled: ProjectState) -> None:
    drifted = replace(settled, drift={"total_annotations_number": 3}, drift_since=NOW + 5, synced_at=NOW + 5)
    found = decided(drifted, at=NOW + 7)
    assert isinstance(found, Due)
    assert found.kind == "complete"


def test_a_difference_that_complete_syncs_leave_is_asked_about_less_and_less_often(settled: ProjectState) -> None:
    drifted = replace(settled, drift={"total_annotations_number": 3}, drift_since=NOW, synced_at=NOW, complete_at=NOW)
    waits = []
    for differed in (1, 2, 3, 40):
        found = decided(drifted, Standing(differed=differed, complete_ended=NOW), at=NOW + 7)
        assert isinstance(found, Later)
        waits.append(found.until - NOW)
    assert waits == [30, 60, 120, DAY_S]


def test_after_a_bulk_deletion_a_complete_sync_comes_after_the_quiet_period(settled: ProjectState) -> None:
    wanted = replace(settled, complete_wanted_at=NOW + 5)
    assert isinstance(decided(wanted, at=NOW + 6), Later)
    found = decided(wanted, at=NOW + 7)
    assert isinstance(found, Due)
    assert found.kind == "complete"


def test_an_event_that_did_not_say_what_changed_asks_for_an_incremental_one(settled: ProjectState) -> None:
    assert decided(replace(settled, incremental_wanted_at=NOW), at=NOW + 2) == Due(
        "incremental", "an event came without saying what changed"
    )


def test_automatic_syncs_take_at_most_half_of_the_time(settled: ProjectState) -> None:
    wanted = replace(settled, complete_wanted_at=NOW)
    slow = Standing(complete_ended=NOW, complete_seconds=600)
    assert isinstance(decided(wanted, slow, at=NOW + 599), Later)
    assert isinstance(decided(wanted, slow, at=NOW + 600), Due)


def test_a_person_need_not_wait(settled: ProjectState) -> None:
    wanted = replace(settled, complete_wanted_at=NOW)
    standing = Standing(
        complete_ended=NOW, complete_seconds=600, next_try=NOW + 600, asked="ml-backend sync", forced=True
    )
    assert decided(wanted, standing) == Due("complete", "ml-backend sync")


def test_after_a_failure_nothing_is_tried_before_its_time(house: House) -> None:
    assert isinstance(decided(house.project(), Standing(next_try=NOW + 10)), Later)
    assert isinstance(decided(house.project(), Standing(next_try=NOW + 10), at=NOW + 10), Due)


def test_what_failed_with_another_key_is_tried_at_once(house: House) -> None:
    failed = Standing(next_try=NOW + 600, failures=3, access="another")
    assert isinstance(decided(house.project(), failed.with_access(house.access.fingerprint)), Due)


def test_the_clock_hands_a_sync_over_once(house: House) -> None:
    for _ in range(3):
        assert house.syncs.consider(house.project(), NOW) is not None
    assert house.jobs.depth("sync") == 1


def test_without_a_key_the_clock_asks_for_nothing(valkey: redis.Redis) -> None:
    house = House(valkey, "http://127.0.0.1:1", key=None)
    house.connect()
    assert house.syncs.consider(house.project(), NOW) is None
    assert house.jobs.depth("sync") == 0


def test_a_new_project_is_on_the_clocks_list(house: House) -> None:
    assert house.due.claim(NOW)[0] == [UID]


def test_a_start_asks_for_everything_again(house: House) -> None:
    house.sync()
    house.syncs.start_up(NOW + 10)
    assert decided(house.project(), house.standing(), at=NOW + 10) == Due("complete", "this backend was started")


# --- how -------------------------------------------------------------------------------------------------------------


def test_a_sync_reads_everything_and_says_so(house: House) -> None:
    house.sync()
    assert house.annotations() == 30
    assert house.project().drift == {}
    standing = house.standing()
    assert (standing.running, standing.error, standing.done, standing.total) == (False, "", 30, 30)
    assert "complete sync" in house.reasons()
    assert "30 annotations read, 30 changes" in house.reasons()


def kinds(studio: FakeLabelStudio) -> list[str]:
    """What was asked for, one after the other, however many pages that took."""
    asked = [
        "everything" if "updated_at" not in items else "lost theirs" if items["annotations_ids"]["value"] else "changed"
        for items in studio.asked
    ]
    return [kind for kind, _ in itertools.groupby(asked)]


def test_pages_are_asked_for_by_the_last_id(house: House, studio: FakeLabelStudio) -> None:
    studio.page = 10
    house.sync()
    assert [items["id"]["value"] for items in studio.asked] == [0, 10, 20, 30]


def test_a_project_without_labels_is_read_too(house: House, studio: FakeLabelStudio) -> None:
    studio.tasks = {1: [], 2: []}
    house.sync()
    assert house.project().complete_at == NOW
    assert house.standing().error == ""


def test_what_label_studio_no_longer_has_is_removed(house: House, studio: FakeLabelStudio) -> None:
    house.sync()
    studio.tasks = {number: [100 + number] for number in range(5, 25)}
    house.syncs.request(UID, "complete", "test", house.now + 1)
    house.sync(after_s=2)
    assert house.annotations() == 20


def test_an_incremental_sync_that_leaves_a_difference_is_followed_by_a_complete_one(
    house: House, studio: FakeLabelStudio
) -> None:
    house.sync()
    del studio.tasks[3]
    studio.tasks[4] = []
    house.syncs.request(UID, "incremental", "test", house.now + 1)
    studio.asked.clear()
    house.sync(after_s=2)
    house.sync(after_s=10)
    assert house.annotations() == 28
    assert kinds(studio) == ["changed", "lost theirs", "everything"]


def test_who_lost_annotations_is_asked_for_only_where_the_counts_say_that_somebody_did(
    house: House, studio: FakeLabelStudio
) -> None:
    house.sync()
    studio.asked.clear()
    studio.tasks[31] = [131]
    house.syncs.request(UID, "incremental", "test", house.now + 1)
    house.sync(after_s=2)
    assert kinds(studio) == ["changed"]
    assert house.annotations() == 31
    studio.asked.clear()
    studio.tasks[4] = []
    house.syncs.request(UID, "incremental", "test", house.now + 1)
    house.sync(after_s=2)
    assert kinds(studio) == ["changed", "lost theirs"]
    assert house.annotations() == 30
    assert house.project().drift == {}


def test_who_lost_annotations_is_asked_for_where_an_event_came_while_it_was_counted(
    house: House, studio: FakeLabelStudio
) -> None:
    house.sync()
    studio.tasks[4] = []
    studio.tasks[32] = [132]

    def label(request: Received) -> None:
        # Its annotation is counted there, and heard of here, in the place of the one that was lost.
        if "/api/projects/" in request.path and studio.asked:
            studio.fail = lambda request: None
            house.event(33, 133)
            studio.tasks[33] = [133]

    studio.asked.clear()
    studio.fail = label  # type: ignore[assignment]
    house.syncs.request(UID, "incremental", "test", house.now + 1)
    house.sync(after_s=2)
    assert "lost theirs" in kinds(studio)
    assert house.annotations() == 31
    assert house.project().drift == {}


def test_the_label_config_and_the_title_come_with_it(house: House) -> None:
    house.state.setup(UID, CONFIG.replace('value="a"', 'value="old"'), None, NOW)
    house.sync()
    assert 'value="a"' in house.state.label_config(UID)
    assert house.project().title == "faked"


def test_only_one_process_syncs_a_project(house: House, studio: FakeLabelStudio) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(request: Received) -> None:
        entered.set()
        assert go_on.wait(20)

    studio.fail = wait  # type: ignore[assignment]
    first = threading.Thread(target=house.syncer.sync, args=(UID,))
    first.start()
    assert entered.wait(20)
    assert house.standing().running
    opened = house.opened
    house.syncer.sync(UID)
    assert house.opened == opened, "the second one left it to the first"
    assert house.syncs.consider(house.project(), NOW) == NOW + 5
    go_on.set()
    first.join(20)
    assert house.annotations() == 30


class Killed(BaseException):
    """Stands for a kill: nothing between here and the test catches it."""


def test_a_sync_that_was_interrupted_goes_on_where_it_was(house: House, studio: FakeLabelStudio) -> None:
    studio.page = 10

    def die(request: Received) -> Answer | None:
        return Answer(status=500) if len(studio.asked) == 2 else None

    def pause(_: float) -> None:
        raise Killed

    studio.fail = die
    house.patience_s = 30.0
    opened = house.open
    house.syncer._open_api = lambda timeout_s, patience_s, _: opened(timeout_s, patience_s, pause)
    with pytest.raises(Killed):
        house.sync()
    assert house.annotations() == 20
    house.syncer._open_api = opened
    studio.fail = lambda request: None
    studio.asked.clear()
    house.sync(after_s=1)
    assert [items["id"]["value"] for items in studio.asked] == [20, 30]
    assert house.annotations() == 30
    assert house.project().drift == {}


SYNC = """
import sys, time
from pydantic import SecretStr
from ml_backend.bootstrap import make_services
from ml_backend.settings import Settings
uid, redis_url, url, key = sys.argv[1:]
make_services(
    Settings(redis_url=SecretStr(redis_url), label_studio_url=url, label_studio_api_key=SecretStr(key)), timeout_s=5
).syncer().sync(uid)
"""


def test_a_sync_whose_process_is_killed_is_gone_on_with_by_the_next_one(
    house: House, studio: FakeLabelStudio, fake: Loopback, valkey_socket: Path
) -> None:
    studio.page = 10
    house.now = time.time()
    third, over = threading.Event(), threading.Event()

    def stall(request: Received) -> Answer | None:
        # The third page does not come before the process is gone.
        if "/api/tasks/" in request.path and len(studio.asked) == 2:
            third.set()
            over.wait(60)
            return Answer(status=500)
        return None

    studio.fail = stall
    command = [sys.executable, "-c", SYNC, UID, f"unix://{valkey_socket}", fake.url, KEY]
    with subprocess.Popen(command) as process:
        try:
            assert third.wait(60), "it asks for the third page"
        finally:
            process.kill()
            over.set()
    assert house.annotations() == 20
    studio.fail = lambda request: None
    studio.asked.clear()
    house.standings.set(UID, until=1.0)  # 15 s later
    house.sync(after_s=15)
    assert [items["id"]["value"] for items in studio.asked] == [20, 30]
    assert house.annotations() == 30
    assert house.project().drift == {}


def test_the_memory_of_a_sync_is_that_of_a_page_however_large_the_project(
    house: House, studio: FakeLabelStudio
) -> None:
    studio.page, studio.text = 50, 20_000

    def peak(tasks: int) -> int:
        studio.tasks = {number: [100_000 + number] for number in range(1, tasks + 1)}
        house.syncs.request(UID, "complete", "again", house.now)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        house.sync(after_s=10)
        assert house.annotations() == tasks
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak(100)  # what is imported late
        small, large = peak(100), peak(1500)
    finally:
        tracemalloc.stop()
    assert large < 1.5 * small, "fifteen times as many tasks, 30 MB of data"


def test_a_duplicated_project_is_another_one_and_is_read_by_itself(house: House, studio: FakeLabelStudio) -> None:
    house.sync()
    copy = "8.1795340000"
    house.state.setup(copy, CONFIG, None, house.now)
    studio.id, studio.created = 8, "2026-11-22T09:33:20.000000Z"
    studio.tasks = {number: [500 + number] for number in range(41, 46)}
    house.syncer.sync(copy)
    copied = house.state.load(copy)
    assert copied is not None
    assert copied.derived.total_annotations_number == 5
    assert house.annotations() == 30


def test_a_holder_that_is_gone_is_followed_by_another(house: House, valkey: redis.Redis) -> None:
    assert house.standings.take(UID) is not None
    assert house.standings.take(UID) is None
    seconds, micros = valkey.time()
    house.standings.set(UID, until=seconds + micros / 1e6 - 0.001)
    assert not house.standing().running
    assert house.standings.take(UID) is not None


def test_an_event_that_comes_during_a_sync_is_not_undone(house: House, studio: FakeLabelStudio) -> None:
    def label(request: Received) -> None:
        if "/api/tasks/" in request.path:
            house.event(task=12, annotation=5000)

    studio.fail = label  # type: ignore[assignment]
    house.sync()
    assert house.annotations() == 31


# --- when it fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer({"detail": "on fire"}, 500), "on fire"),
        (Answer(b"<html>a proxy's page</html>"), "something else than JSON"),
        (Answer({"tasks": "none", "id": "no"}), "cannot be read"),
        (Answer(hang_up=True), "cannot be reached"),
    ],
    ids=["500", "html", "garbage", "hangs up"],
)
def test_a_failure_is_kept_and_tried_again_later_and_later(
    house: House, studio: FakeLabelStudio, answer: Answer, words: str
) -> None:
    studio.fail = lambda request: answer
    pauses = []
    for _ in range(4):
        house.sync()
        standing = house.standing()
        assert words in standing.error
        assert not standing.running
        assert standing.next_try is not None
        pauses.append(standing.next_try - house.now)
        assert isinstance(decided(house.project(), standing, at=house.now), Later)
        house.now = standing.next_try
    assert all(0.8 * wanted <= pause <= 1.2 * wanted for pause, wanted in zip(pauses, (5, 10, 20, 40), strict=True))
    assert house.reasons().count(words) == 1, "said once, not each time"
    studio.fail = lambda request: None
    house.sync()
    assert house.annotations() == 30
    assert house.standing().error == ""


def test_a_label_studio_that_takes_too_long_to_answer_is_asked_again_later(
    house: House, studio: FakeLabelStudio
) -> None:
    ready = threading.Event()

    def slow(request: Received) -> None:
        ready.wait(20)

    studio.fail, house.longest_s = slow, 0.3  # type: ignore[assignment]
    house.sync()
    standing = house.standing()
    assert "did not answer" in standing.error
    assert standing.next_try is not None
    ready.set()
    house.longest_s = 60.0
    house.sync(after_s=standing.next_try - house.now)
    assert (house.annotations(), house.standing().error) == (30, "")


def test_a_failure_in_the_middle_keeps_what_was_read(house: House, studio: FakeLabelStudio) -> None:
    studio.page = 10
    studio.fail = lambda request: Answer(status=503) if len(studio.asked) == 2 else None
    house.sync()
    assert house.annotations() == 20
    assert house.standing().error


def test_what_nobody_will_go_on_with_is_given_up(house: House, studio: FakeLabelStudio) -> None:
    studio.page = 10
    studio.fail = lambda request: Answer(status=503) if len(studio.asked) == 2 else None
    house.sync()
    assert "syncing" in house.project().meta
    studio.fail = lambda request: Answer(status=503)
    house.sync(after_s=3601)
    assert "syncing" not in house.project().meta


def test_a_mistake_of_ours_is_a_failure_like_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SyncState, "apply", lambda *_args, **_more: 1 / 0)
    house.sync()
    assert house.standing().error == "ZeroDivisionError: division by zero"
    assert isinstance(decided(house.project(), house.standing(), at=house.now), Later)


def test_a_project_of_another_label_studio_is_refused_with_the_reason(house: House, studio: FakeLabelStudio) -> None:
    studio.created = "2020-01-01T00:00:00Z"
    house.sync()
    assert "LABEL_STUDIO_URL leads to another Label Studio" in house.standing().error
    assert house.annotations() == 0
    assert studio.asked == [], "no task was asked for"


def test_a_project_that_the_key_may_not_see_says_so(house: House, studio: FakeLabelStudio) -> None:
    studio.fail = lambda request: Answer({"detail": "Not found."}, 404)
    house.sync()
    assert "the owner of LABEL_STUDIO_API_KEY may not see it" in house.standing().error
    assert house.standing().next_try is not None
    assert house.standing().next_try > house.now + 400  # type: ignore[operator]


def test_while_a_request_is_repeated_that_is_to_be_seen(house: House, studio: FakeLabelStudio) -> None:
    house.patience_s = 30.0
    seen = []

    def fail_once(request: Received) -> Answer | None:
        if not seen:
            seen.append("")
            return Answer(status=503)
        if len(seen) == 1:
            seen.append(house.standing().message)
        return None

    studio.fail = fail_once
    house.sync()
    assert "asking again in" in seen[1]
    assert house.annotations() == 30


# --- before a training -----------------------------------------------------------------------------------------------


def test_a_set_that_is_known_to_be_right_is_not_asked_about(house: House) -> None:
    house.sync()
    opened = house.opened
    house.syncer.before_training(UID, 10)
    assert house.opened == opened


def test_a_set_that_is_known_to_differ_is_brought_up_to_date(house: House, studio: FakeLabelStudio) -> None:
    house.sync()
    studio.tasks[40] = [140]
    counters = FakeLabelStudio({**studio.tasks, 41: [141]})._project()
    house.now += 1
    house.event(
        41,
        141,
        {name: value for name, value in counters.items() if name.endswith("_number")}
        | {"num_tasks_with_annotations": 32},
    )
    studio.tasks[41] = [141]
    assert may_differ(house.project()) is not None
    house.syncer.before_training(UID, 10)
    assert house.annotations() == 32
    assert may_differ(house.project()) is None


def test_a_training_goes_on_when_label_studio_does_not_answer_and_says_so(
    house: House, studio: FakeLabelStudio
) -> None:
    studio.fail = lambda request: Answer(status=503)
    began = time.monotonic()
    house.syncer.before_training(UID, 5)
    assert time.monotonic() - began < 5
    assert "training with what is known: " in house.reasons()


def test_a_training_waits_no_longer_than_it_may(house: House, studio: FakeLabelStudio) -> None:
    stop = threading.Event()

    def slow(request: Received) -> None:
        stop.wait(0.4)

    studio.page, studio.fail = 1, slow  # type: ignore[assignment]
    began = time.monotonic()
    house.syncer.before_training(UID, 1.5)
    assert time.monotonic() - began < 4
    assert "its sync takes longer than a training waits" in house.reasons()
    stop.set()
    house.sync()
    assert house.annotations() == 30, "the sync goes on afterwards"


def test_a_training_waits_for_the_sync_that_runs(house: House) -> None:
    held = house.standings.take(UID)
    assert held is not None
    waiting = threading.Thread(target=house.syncer.before_training, args=(UID, 20))
    waiting.start()
    with held:
        wait_until(waiting.is_alive, 5, "it waits")
        assert house.annotations() == 0
    waiting.join(20)
    assert house.annotations() == 30


# --- deleted projects -----------------------------------------------------------------------------------------------


def test_a_deleted_project_is_thrown_away_after_a_time_and_nothing_of_others(house: House, valkey: redis.Redis) -> None:
    house.sync()
    other = "7.1600000000"
    house.state.setup(other, CONFIG, None, NOW)
    valkey.incr(f"mlb:{{{UID}}}:number")
    purge = Purge(valkey)
    assert not purge(UID, NOW, 0.0), "it is not deleted"
    house.state.mark(UID, deleted_at=NOW)
    assert not purge(UID, NOW + 99, 100.0)
    assert purge(UID, NOW + 100, 100.0)
    assert house.state.uids() == [other]
    assert [key for key in valkey.scan_iter() if UID.encode() in key] == [f"mlb:{{{UID}}}:number".encode()]
    assert house.state.load(other) is not None


def test_an_event_that_comes_while_a_project_is_thrown_away_leaves_no_half_of_it(
    house: House, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sync()
    house.state.mark(UID, deleted_at=NOW)
    plain = valkey.scan_iter

    def scanned(**how: Any) -> Iterator[bytes]:
        house.event(1, 1001)  # from a webhook that nobody removed
        yield from plain(**how)

    monkeypatch.setattr(valkey, "scan_iter", scanned)
    assert Purge(valkey)(UID, NOW + 100, 100.0)
    house.event(2, 1002)
    assert house.state.uids() == [UID]
    assert house.annotations() == 1


def test_a_project_that_is_connected_again_is_not_thrown_away(house: House, valkey: redis.Redis) -> None:
    house.sync()
    house.state.mark(UID, deleted_at=NOW)
    house.connect()
    assert not Purge(valkey)(UID, NOW + 1000, 1.0)
    found = decided(house.project(), at=NOW + 1000)
    assert isinstance(found, Due)
    assert found.kind == "complete"


def test_without_redis_a_sync_says_unavailable(valkey_socket: Path, fake: Loopback) -> None:
    with connect(valkey_socket.with_name("nobody"), timeout=0.2) as nobody:
        house = House(nobody, fake.url)
        with pytest.raises(Unavailable):
            house.syncer.sync(UID)
