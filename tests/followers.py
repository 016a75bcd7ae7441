"""Whoever follows a (modelled) Label Studio by its events and syncs, and what it holds, read without the product."""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.counters import CountedAnnotation, derive
from ml_backend.events import Annotation, Task, parse, parse_annotation, parse_task
from ml_backend.state import State, SyncState
from ml_backend.state.project import project_state
from tests.modelled import labelled_tasks

if TYPE_CHECKING:
    import redis

    from ml_backend.state import ProjectState, Recorded, Sync
    from ml_backend.state.reading import StoredTask
    from tests.modelled import ModelLabelStudio, Payload

Page = list[tuple[Task, list[Annotation]]]
Between = tuple[int, int | None]


class Follower:
    """A state of one project under a prefix of its own, so that several can follow the same Label Studio."""

    def __init__(self, client: redis.Redis, prefix: str, studio: ModelLabelStudio) -> None:
        self.redis = client
        self.prefix = prefix
        self.studio = studio
        self.state = State(client, prefix)
        self.syncs = SyncState(client, prefix)

    @property
    def now(self) -> float:
        """Our clock agrees with Label Studio's."""
        return self.studio.now_us / 1e6

    def hear(self, payload: Payload) -> Recorded:
        """One delivery."""
        return self.state.record(parse(payload["action"], payload), self.now)

    # --- syncs, step by step ------------------------------------------------------------------------------------------

    def begin(self) -> Sync:
        """Begin a complete sync."""
        return self.syncs.begin(self.studio.uid, "complete", self.now, from_us=self.studio.now_us)

    def fetch(self, after: int, size: int) -> tuple[Page, Between]:
        """The next page as Label Studio has it now."""
        ids = list(labelled_tasks(self.studio, after, size))
        return page_of(self.studio, ids), (after, ids[-1] if len(ids) == size else None)

    def finish(self, sync: Sync) -> bool:
        """Ask for the counters and end it."""
        project = self.state.load(self.studio.uid)
        touch = project.touch if project is not None else 0
        return self.syncs.finish(
            sync, self.now, counters=self.studio.counters(), counters_us=self.studio.now_us, touch=touch
        )

    def sync(self, size: int = 2) -> None:
        """A complete sync while nothing else happens; Label Studio's totals must then agree."""
        sync = self.begin()
        after: int | None = 0
        while after is not None:
            page, between = self.fetch(after, size)
            self.syncs.apply(sync, page, self.now, between=between)
            after = between[1]
        assert not self.finish(sync), "the counters differ after a complete sync"

    # --- what it holds ------------------------------------------------------------------------------------------------

    def project(self) -> ProjectState | None:
        """The project as it stands."""
        return self.state.load(self.studio.uid)

    def held(self) -> dict[int, tuple[Any, ...]]:
        """Annotation id to (task, created, updated, flags, result)."""
        return self._look().annotations

    def texts(self) -> dict[int, str]:
        """Task id to its text."""
        return self._look().texts

    def check(self) -> None:
        """It holds exactly what Label Studio holds, and counts the same."""
        held = self._look()
        assert held.annotations == truth(self.studio)
        annotated = {one.task for one in self.studio.annotations.values()}
        assert held.texts == {one: self.studio.tasks[one].text for one in annotated}
        held.check_counts()
        if held.project is not None:
            assert held.project.derived.differences(self.studio.counters()) == {}

    def check_counts(self) -> None:
        """The counts are those of what is held; the lists by task agree with it."""
        self._look().check_counts()

    def _look(self) -> Held:
        """All in one round trip: thousands of runs look after each of their steps."""
        with self.redis.pipeline(transaction=False) as pipe:
            for name in ("annotations", "tasks", "of-task", "meta"):
                pipe.hgetall(f"{self.prefix}{{{self.studio.uid}}}:{name}")
            annotations, tasks, lists, meta = pipe.execute()
        known = {name.decode(): value.decode() for name, value in meta.items()}
        return Held(
            project_state(known, changed=0, running="", waiting="", runs={}, paused="") if "uid" in known else None,
            {int(one): _annotation(value) for one, value in annotations.items()},
            {int(one): _body(value[16:])["text"] for one, value in tasks.items()},
            {
                int(task): {int(one.partition(b":")[0]): int(one.partition(b":")[2]) for one in joined.split(b";")}
                for task, joined in lists.items()
            },
        )


@dataclass(frozen=True)
class Held:
    """What lies in Redis: the project with its counts, annotations, texts by task, and flags by annotation by task."""

    project: ProjectState | None
    annotations: dict[int, tuple[Any, ...]]
    texts: dict[int, str]
    lists: dict[int, dict[int, int]]

    def check_counts(self) -> None:
        """See `Follower.check_counts`."""
        project = self.project
        by_task: dict[int, dict[int, int]] = {}
        for one, (task, _, _, flags, _) in self.annotations.items():
            by_task.setdefault(task, {})[one] = flags
        assert self.lists == by_task
        assert set(self.texts) <= set(by_task), "a task without annotations is kept"
        if project is None:
            assert not self.annotations
            return
        rows = [(task, flags) for task, _, _, flags, _ in self.annotations.values()]
        assert project.derived == derive(
            CountedAnnotation(task, bool(f & 1), bool(f & 2), bool(f & 4)) for task, f in rows
        )
        assert project.bulk_accepted == sum(f & 13 == 12 for _, f in rows)
        assert project.training.trainable == sum(f & 13 == 4 for _, f in rows)


class Monitored:
    """The commands that clients send meanwhile; what scripts do, and a new connection's greetings, left out."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.commands: list[str] = []

    def __enter__(self) -> list[str]:
        started = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(started,))
        self._thread.start()
        assert started.wait(5)
        return self.commands

    def __exit__(self, *_: object) -> None:
        self._client.echo("the end")
        self._thread.join(5)

    def _listen(self, started: threading.Event) -> None:
        with self._client.monitor() as monitor:
            started.set()
            for command in monitor.listen():
                if "the end" in command["command"]:
                    return
                if command["client_type"] != "lua" and not command["command"].startswith(("HELLO", "CLIENT SETINFO")):
                    self.commands.append(command["command"])


def only(payloads: list[Payload]) -> Payload:
    """The only event of an action."""
    (payload,) = payloads
    return payload


def stored(follower: Follower, **options: Any) -> dict[int, StoredTask]:
    """The examples as a run reads them, by task id."""
    return {int(one.task["id"]): one for one in follower.state.stored(follower.studio.uid, **options)}


def truth(studio: ModelLabelStudio) -> dict[int, tuple[Any, ...]]:
    """What `Follower.held` should be."""
    return {
        one.id: (
            one.task,
            one.created_us,
            one.updated_us,
            one.cancelled
            + 2 * one.ground_truth
            + 4 * (one.label is not None)
            + 8 * one.bulk_accepted
            + 16 * (one.prediction is not None),
            one.result,
        )
        for one in studio.annotations.values()
    }


def page_of(studio: ModelLabelStudio, ids: list[int]) -> Page:
    """Tasks with all their annotations, read as the API's answers are."""
    return [
        (
            parse_task(studio.task_payload(task), "task"),
            [
                parse_annotation(one.payload, "", task, bulk=one.updated_by is None)
                for one in studio.annotations_of(task)
            ],
        )
        for task in ids
    ]


def _annotation(value: bytes) -> tuple[Any, ...]:
    created, updated, task, flags = struct.unpack_from(">dddB", value)
    return int(task), int(created), int(updated), flags, _body(value[25:])[0]


@lru_cache(maxsize=4096)
def _body(body: bytes) -> Any:
    return orjson.loads(zlib.decompress(body[1:]) if body[:1] == b"z" else body[1:])
