"""State: what an annotation takes in Redis, and what recording an event costs, at 1,000 and at 100,000 annotations.

Each annotation is a choice about a text of 100 characters, one to a task. Events go straight to `State`, without a web
server; the projects of all sizes lie in one Valkey and take turns, event by event, so that drift meets all alike.
Usage: python -m benchmarks.state [--json] [--short] [--rounds N]
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import redis

from benchmarks.common import Options, Row, compared, folder, options, report, single, valkey
from ml_backend.counters import Counters
from ml_backend.events import Annotation, AnnotationsWritten, Project, Task
from ml_backend.state import State, SyncState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BYTES, GROWTH = 700, 1.3
BEGAN_US = 1_795_333_883_000_000
LABELS = ("card_arrival", "exchange_rate", "lost_or_stolen_card")
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz      "


def task(number: int) -> Task:
    """A task whose text has 100 characters."""
    chosen = random.Random(number)
    text = "".join(chosen.choices(LETTERS, k=100))
    moment = BEGAN_US + number * 1000
    return Task(number, {"text": text}, moment, moment)


def annotation(number: int, version: int = 0, *, bulk: bool = False) -> Annotation:
    """The annotation of that task, as Label Studio's own editor writes it; a later ``version`` has another label."""
    region: dict[str, object] = {
        "id": f"{number:010x}",
        "type": "choices",
        "value": {"choices": [LABELS[(number + version) % len(LABELS)]]},
        "origin": "manual",
        "to_name": "text",
        "from_name": "label",
    }
    moment = BEGAN_US + number * 1000
    return Annotation(
        number,
        number,
        [region],
        created_at_us=moment,
        updated_at_us=moment + version * 1_000_000_000,
        completed_by="1",
        parent_prediction=number if bulk else None,
        bulk_accepted=bulk,
    )


class Sized:
    """A project with so many annotations, of which any may be updated."""

    def __init__(self, client: redis.Redis, size: int) -> None:
        self.size = size
        self.state = State(client)
        self.project = Project(
            size,
            created_at_us=BEGAN_US,
            updated_at_us=BEGAN_US,
            title="State",
            label_config=CONFIG,
            min_annotations=0,
            counters=Counters(size, size, 0, size, size, size, 0, 0),
        )
        self.uid = str(self.project.uid)
        self._client = client
        self._version = 0
        self._chosen = random.Random(size)

    def fill(self) -> float:
        """Store them, as a complete sync does; returns its seconds."""
        began = time.perf_counter()
        syncs = SyncState(self._client)
        sync = syncs.begin(self.uid, "complete", time.time())
        for first in range(1, self.size + 1, 1000):
            numbers = range(first, min(first + 1000, self.size + 1))
            page = [(task(number), (annotation(number),)) for number in numbers]
            syncs.apply(sync, page, time.time(), between=(first - 1, numbers[-1]))
        syncs.finish(sync, time.time())
        return time.perf_counter() - began

    def updates(self, count: int) -> Iterator[AnnotationsWritten]:
        """Events about annotations chosen at random, each with a label that it did not have."""
        for _ in range(count):
            self._version += 1
            number = self._chosen.randint(1, self.size)
            changed = annotation(number, self._version)
            yield AnnotationsWritten("ANNOTATION_UPDATED", self.project, (changed,), (task(number),))


def used(client: redis.Redis) -> int:
    """What Redis holds, in bytes."""
    return int(client.info("memory")["used_memory"])


def record_us(projects: Sequence[Sized], events: int) -> list[float]:
    """What one event takes in each of the projects, in microseconds: the median of their turns."""
    took: list[list[float]] = [[] for _ in projects]
    for turn in zip(*(project.updates(events) for project in projects), strict=True):
        for number, event in enumerate(turn):
            began = time.perf_counter()
            projects[number].state.record(event, time.time())
            took[number].append(time.perf_counter() - began)
    return [statistics.median(one) * 1e6 for one in took]


def bulk_ms(client: redis.Redis, count: int) -> float:
    """How long one event of that many accepted predictions takes: Redis answers nobody else meanwhile."""
    project = replace(Sized(client, count).project, id=10**9 + count)
    event = AnnotationsWritten(
        "ANNOTATIONS_CREATED",
        project,
        tuple(annotation(number, bulk=True) for number in range(1, count + 1)),
        tuple(task(number) for number in range(1, count + 1)),
    )
    began = time.perf_counter()
    State(client).record(event, time.time())
    return (time.perf_counter() - began) * 1e3


def read_s(project: Sized) -> float:
    """How long a run takes to read the whole training set."""
    began = time.perf_counter()
    found = sum(1 for _ in project.state.stored(project.uid))
    if found != project.size:
        raise RuntimeError(f"{found} of {project.size} were there")
    return time.perf_counter() - began


def measured(chosen: Options) -> list[Row]:
    """One Valkey, filled once."""
    small, large, events, many = (20, 60, 10, 50) if chosen.short else (1_000, 100_000, 1_000, 5_000)
    with (
        folder() as where,
        valkey(where / "valkey", "everysec") as (server, _),
        redis.Redis.from_url(server.url, socket_timeout=30) as client,
    ):
        projects = [Sized(client, small), Sized(client, large)]
        for project in projects:
            project.state.setup(project.uid, CONFIG, None, time.time())
        projects[0].fill()
        before = used(client)
        filled = projects[1].fill()
        changed = (used(client) - before) / large
        state, uid = projects[1].state, projects[1].uid
        state.attempted(uid, state.snapshot(uid), time.time(), seconds=1.0, trained_size=large)
        trained = (used(client) - before) / large
        record_us(projects, events // 2)
        rounds = [record_us(projects, events) for _ in range(chosen.rounds)]
        read = [read_s(projects[1]) for _ in range(chosen.rounds)]
        bulk = [bulk_ms(client, many + number) for number in range(chosen.rounds)]
    return [
        single("Redis for each annotation, with its task", [changed], "B", at_most=BYTES, note="none trained on yet"),
        single("the same", [trained], "B", at_most=BYTES, note="all trained on"),
        compared(
            f"recording an event at {large:,} stored annotations",
            [one[1] for one in rounds],
            [one[0] for one in rounds],
            "us",
            at_most=GROWTH,
            note=f"peer: at {small:,}",
        ),
        single(f"one event of {many:,} annotations", bulk, "ms"),
        single(f"reading {large:,} for a run", read, "s"),
        single(f"storing {large:,} by a sync", [filled], "s", note="without Label Studio's own time"),
    ]


def main() -> None:
    """The command."""
    chosen = options(__doc__)
    report("State", measured(chosen), chosen)


if __name__ == "__main__":
    main()
