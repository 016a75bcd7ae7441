"""What a refresh decides, without I/O: whether one is due, which tasks first, how fast, and what may be deleted."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ml_backend.settings import PredictionSettings

Status = Literal["", "waiting", "running", "done", "failed", "cancelled", "off"]

LEAST_SECONDS = 120.0
"""A time budget below this would leave projects whose training takes a second without predictions."""
OPEN_S = 24 * 3600.0
"""How long an annotator may have a prediction open: as long as a task's lock lives (fact 19)."""

_QUIET_S = 3.0
_LOOK_FOR_TASKS_S = 900.0
_ASK_AGAIN_S = 10.0
_LOOK_S = 2.0
_FIRST_RETRY_S, _LAST_RETRY_S = 15.0, 3600.0

_FIRST_BATCH = 100
# An import takes nearly as long for 50 predictions as for 200 (0.4 s on SQLite): smaller ones would keep Label Studio
# busy for longer in all, and disturb more often.
_SMALLEST_BATCH, _LARGEST_BATCH = 100, 200
_FELT_S = 0.8
_QUICKEST_OF = 5
_REST = 3.0
_LONGEST_PAUSE_S = 5.0
_KEPT = 5000


@dataclass(frozen=True, slots=True)
class Standing:
    """How a project's refresh stands. Times are seconds since the epoch, on our clock; None until they happen.

    ``version`` is the one it is about, ``done`` of ``total`` tasks have got their prediction, ``reason`` is for people.
    ``retry_at``: when a failed one is tried again, after ``failures`` in a row. ``covers`` and ``newest_us``: up to
    that creation date (Label Studio's, microseconds) the tasks were looked at for that version. ``tasks_at`` and
    ``task_number`` are what was known of new tasks when it began. ``sent_at`` and ``sent``: a batch whose arrival is
    not known. ``hidden``: predictions were hidden from annotators by us. ``marks``: since when each version of ours is
    out of use. ``held``: a worker is at it.
    """

    status: Status = ""
    version: str = ""
    trigger: str = ""
    phase: str = ""
    reason: str = ""
    done: int = 0
    total: int = 0
    began: float | None = None
    ended: float | None = None
    failures: int = 0
    retry_at: float | None = None
    cancelling: bool = False
    covers: str = ""
    newest_us: int | None = None
    tasks_at: float | None = None
    task_number: int = 0
    sent_at: float | None = None
    sent: tuple[int, ...] = ()
    hidden: bool = False
    marks: Mapping[str, float] = field(default_factory=dict)
    held: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What the clock knows of a project beside that: the version that must serve, and news of tasks."""

    version: str
    tasks_at: float | None
    task_number: int
    blocked: str | None
    """Why nothing may be sent (a setting), or None."""


@dataclass(frozen=True, slots=True)
class Due:
    """``ask``: a refresh is due, and why; ``off``: none may be, and why. ``look_at``: when to decide again."""

    ask: str | None = None
    off: str | None = None
    look_at: float | None = None


def due(standing: Standing, known: Known, now: float) -> Due:
    """Whether a refresh is due. Asking twice does no harm: the queue holds one at most."""
    if known.blocked is not None:
        told = standing.status == "off" and (standing.version, standing.reason) == (known.version, known.blocked)
        return Due() if told else Due(off=known.blocked)
    if standing.held:
        return Due(look_at=now + _LOOK_S)
    asking = _unanswered(standing, known)
    if asking is not None:
        return Due(ask=asking, look_at=now + _ASK_AGAIN_S)
    if standing.status == "failed" and standing.retry_at is not None:
        if now < standing.retry_at:
            return Due(look_at=standing.retry_at)
        return Due(ask="once more after a failure", look_at=now + _ASK_AGAIN_S)
    return _after(standing, known, now) if standing.status == "done" else Due()


def _unanswered(standing: Standing, known: Known) -> str | None:
    """Why a refresh is wanted that is neither under way nor over; None when there is no such."""
    if standing.status == "running":
        return "its worker is gone: it goes on where it was"
    if standing.version != known.version:
        return f"{known.version} serves"
    if standing.status in {"", "off", "waiting"}:
        return standing.trigger or f"{known.version} serves"
    return None


def _after(standing: Standing, known: Known, now: float) -> Due:
    created = known.tasks_at is not None and known.tasks_at > (standing.tasks_at or 0.0)
    if created or known.task_number > standing.task_number:
        # An import brings several events.
        ready_at = (known.tasks_at or 0.0) + _QUIET_S
        if now < ready_at:
            return Due(look_at=ready_at)
        return Due(ask="there are new tasks", look_at=now + _ASK_AGAIN_S)
    _, delete_at = expired(standing.marks, known.version, now)
    if delete_at is not None and now >= delete_at:
        return Due(ask="predictions of earlier versions can go", look_at=now + _ASK_AGAIN_S)
    # Events are lost when we answer too late (fact 1), and then nothing tells of new tasks.
    unreported_at = (standing.ended or 0.0) + _LOOK_FOR_TASKS_S
    if now >= unreported_at:
        return Due(ask="a look for tasks that nobody reported", look_at=now + _ASK_AGAIN_S)
    return Due(look_at=min(unreported_at, delete_at or unreported_at))


def expired(marks: Mapping[str, float], serving: str, now: float) -> tuple[list[str], float | None]:
    """(versions whose predictions nobody can have open any more, when the first of them all can go); ``marks`` says
    since when each is out of use (fact 19)."""
    ages = {name: since + OPEN_S for name, since in marks.items() if name != serving}
    return sorted(name for name, at in ages.items() if at <= now), min(ages.values(), default=None)


def retry_in(failures: int) -> float:
    """Seconds until the next try after so many failures in a row."""
    return min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** max(0, failures - 1))


def blocked(settings: PredictionSettings, missing: Collection[str] = ()) -> str | None:
    """Why predictions are not sent; None when they are. ``missing`` names variables that are not set."""
    if not settings.enabled:
        return "fresh predictions are switched off"
    if settings.limit == 0:
        return "fresh predictions are switched off: their limit is 0"
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return f"fresh predictions are not sent: {' and '.join(missing)} {verb} not set"
    return None


def budget_s(settings: PredictionSettings, last_training_s: float) -> float:
    """Seconds that a refresh may take."""
    if settings.max_seconds is not None:
        return settings.max_seconds
    return max(LEAST_SECONDS, last_training_s)


@dataclass(frozen=True, slots=True)
class Kept:
    """A prediction made while ranking, and a digest of the task's data that it was made from."""

    digest: bytes
    result: list[dict[str, object]]
    score: float


class Ranking:
    """The ``room`` most useful tasks of any number: unlabelled ones by lowest score, then labelled ones.

    Memory is that of ``room`` numbers, and of the first 5,000 predictions.
    """

    def __init__(self, room: int) -> None:
        self._room = max(0, room)
        self._kept = min(self._room, _KEPT)
        self._ranked: list[tuple[float, int]] = []  # a heap with the least useful on top: negated
        self._best: list[tuple[float, int]] = []
        self._predictions: dict[int, Kept] = {}
        self._labelled: list[int] = []

    def add(self, task: int, score: float, prediction: Kept) -> None:
        """An unlabelled task with its rank, lowest first."""
        _push(self._ranked, (-score, -task), self._room)
        if not self._kept:
            return
        left = _push(self._best, (-score, -task), self._kept)
        if left != (-score, -task):
            self._predictions[task] = prediction
        if left is not None:
            self._predictions.pop(-left[1], None)

    def add_labelled(self, tasks: Iterable[int]) -> None:
        """Labelled tasks: they come last, the latest first."""
        if len(self._ranked) < self._room:
            self._labelled.extend(tasks)

    def picks(self) -> list[int]:
        """Task ids, most useful first."""
        unlabelled = [-task for _, task in sorted(self._ranked, reverse=True)]
        return (unlabelled + sorted(self._labelled, reverse=True))[: self._room]

    def take(self, task: int) -> Kept | None:
        """The prediction made for a task, once; None when it was not kept."""
        return self._predictions.pop(task, None)


def _push(heap: list[tuple[float, int]], item: tuple[float, int], limit: int) -> tuple[float, int] | None:
    """Push; returns what had to leave."""
    if len(heap) < limit:
        heapq.heappush(heap, item)
        return None
    return heapq.heappushpop(heap, item) if heap else item


class Pace:
    """How many predictions at once, and how long to rest in between, so that nobody's Submit feels it.

    SQLite has one writer, and Label Studio one interpreter: whoever submits while a batch is stored waits for the rest
    of it (fact 20). So batches are kept short in time, and the pauses are three times as long as the work.
    """

    def __init__(self) -> None:
        self.size = _FIRST_BATCH
        self._each_s: deque[float] = deque(maxlen=_QUICKEST_OF)

    def stored(self, count: int, took_s: float) -> None:
        """A batch of ``count`` took so many seconds to store: the next is sized to what hardly anybody feels.

        The quickest of the last ones tells what storing takes: a Submit at the same time makes any of them slow.
        """
        self._each_s.append(max(took_s, 0.01) / count)
        fits = _FELT_S / min(self._each_s)
        self.size = int(max(_SMALLEST_BATCH, min(_LARGEST_BATCH, self.size * 1.5, fits)))

    @staticmethod
    def rest_s(took_s: float) -> float:
        """How long to pause after calls that took so long."""
        return min(_LONGEST_PAUSE_S, _REST * took_s)
