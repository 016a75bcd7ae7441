"""The typed views of projects, runs, versions, syncs and refreshes. Their JSON is the JSON API's contract.

Times are seconds since the epoch, on the backend's clock; None until they happen. Fractions and scores are 0 to 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Moment = Annotated[float, Field(description="Seconds since the epoch.")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class View(BaseModel):
    """Frozen, and nothing in it that is not named here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(View):
    """How far the next training is: ``have`` of ``need`` annotations."""

    have: Count
    need: Count
    fraction: Fraction
    first: bool = Field(description="Whether it is the first training that is waited for.")


class NextTraining(View):
    """What is decided at this moment, and why."""

    kind: Literal["train", "wait", "nothing"]
    reason: str
    until: Moment | None = Field(description="When it is decided again, if nothing changes before.")


class Decision(View):
    """One decision of the past."""

    at: Moment
    kind: str = Field(description="train, wait, nothing, promoted, kept aside, lost, resumed, pinned, predictions …")
    reason: str


class Counters(View):
    """The project's eight counters."""

    task_number: int
    finished_task_number: int
    total_predictions_number: int
    total_annotations_number: int
    num_tasks_with_annotations: int
    useful_annotation_number: int
    ground_truth_number: int
    skipped_annotations_number: int


class TrainingSet(View):
    """What the next training would see."""

    trainable: Count = Field(description="Annotations that a training would see.")
    changed: Count = Field(description="Annotations changed since the last training.")
    trained: Count = Field(description="Annotations that the last training saw; 0 before the first.")
    left_out: Count = Field(description="Bulk-accepted predictions that nobody changed: left out by default.")


class Drift(View):
    """How far the training set is from what Label Studio counts."""

    missing: Count = Field(description="Annotations that only Label Studio has, as far as its totals tell.")
    differences: dict[str, int] = Field(description="Label Studio's counter minus ours, for each that differs.")
    since: Moment | None


class Message(View):
    """What a run said of itself."""

    at: Moment
    phase: str
    fraction: Fraction
    message: str


class Run(View):
    """One training run."""

    id: str
    number: int = Field(description="The run's place in its project, from 1.")
    project: str
    status: Literal["queued", "started", "succeeded", "failed", "cancelled", "lost"]
    trigger: str = Field(description="The event or the rule that asked for it.")
    click: bool = Field(description="Whether a person asked for it.")
    reason: str
    requested_at: Moment
    due_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    seconds: float | None = Field(description="From its last start to its end.")
    phase: str
    fraction: Fraction
    message: str
    messages: list[Message] = Field(description="What it said last, newest first; kept while it trains and a day.")
    cancelling: bool
    joined: Count = Field(description="Requests that came while it waited.")
    attempts: Count
    losses: Count = Field(description="How often its worker was lost.")
    worker: str
    ending: str = Field(description="What came of it, for people.")
    error: str


class Score(View):
    """The one score that stands for a version."""

    name: str
    value: float
    compared_on: Count = Field(description="Examples that it was not trained on; 0 for a score by the model itself.")
    informative: bool = Field(description="Made by the model itself, cross-validated for instance: decided nothing.")


class Version(View):
    """One version of a project's model."""

    number: int
    name: str
    status: Literal["serving", "standby", "kept aside"]
    created_at: Moment
    score: Score | None
    scores: dict[str, float] = Field(description="On examples that it was not trained on.")
    scores_before: dict[str, float] = Field(description="Of the version that served then, on the same examples.")
    information: dict[str, float] = Field(description="Scores that decided nothing.")
    compared_on: Count
    promoted: bool
    verdict: str = Field(description="Why it was promoted or kept aside.")
    tasks: Count = Field(description="Tasks that it was trained on.")
    annotations: Count
    held_out: Count
    trigger: str
    reason: str
    run: str
    parent: int | None
    seconds: float
    durations: dict[str, float]
    bytes: Count


class LoadError(View):
    """A version that a web process could not load."""

    process: str
    version: str
    error: str
    at: Moment


class Serving(View):
    """Which version must serve, and which one does."""

    number: int
    name: str
    since: Moment
    ready: bool = Field(description="Whether every live web process serves it.")
    previous: int | None = Field(description="The version that a roll-back would bring back.")
    pinned: bool = Field(description="Whether the connection's extra params pin a version.")


class Sync(View):
    """How the project's sync with Label Studio stands."""

    problem: str | None = Field(description="Why Label Studio cannot be asked at all.")
    running: bool
    waiting: bool
    kind: str
    phase: str
    done: Count
    total: Count
    message: str
    error: str
    outcome: str
    ended: Moment | None
    next_try: Moment | None


class Refresh(View):
    """How the project's refresh of predictions stands."""

    status: Literal["", "waiting", "running", "done", "failed", "cancelled", "off"]
    version: str
    phase: str
    reason: str
    done: Count
    total: Count
    began: Moment | None
    ended: Moment | None
    retry_at: Moment | None
    cancelling: bool


class Project(View):
    """One project, as it stands."""

    uid: str = Field(description="Label Studio's own uid of the project: <id>.<created_at>.")
    id: int
    title: str
    connected: bool
    progress: Progress
    next_training: NextTraining
    counters: Counters
    training_set: TrainingSet
    drift: Drift
    serving: Serving | None
    load_errors: list[LoadError]
    running: Run | None
    waiting: Run | None
    paused: str | None = Field(description="Why nothing starts by itself.")
    outdated: str | None = Field(description="Why the label config asks for a new model.")
    unsupported: str | None = Field(description="Why this model does not support the label config.")
    last_annotation_at: Moment | None
    sync: Sync
    refresh: Refresh
    decisions: list[Decision] = Field(description="The last ten, newest first.")


class Queue(View):
    """One queue of jobs."""

    waiting: Count
    workers: Count


class System(View):
    """The backend itself."""

    version: str
    model: str
    label_studio: str | None = Field(description="Label Studio's address.")
    queues: dict[str, Queue]


class Projects(View):
    """Every known project."""

    projects: list[Project]


class Runs(View):
    """A project's runs: what waits, what trains, then what is over, newest first."""

    runs: list[Run]


class Versions(View):
    """A project's versions, newest first."""

    versions: list[Version]


class Decisions(View):
    """A project's decisions, newest first."""

    decisions: list[Decision]


class Asked(View):
    """The answer to a request for a run."""

    run: Run
    joined: bool = Field(description="Whether a run waited already.")
    held: str = Field(description="Why it does not start although it waits.")


class Cancelled(View):
    """The answer to a cancellation."""

    run: Run
    outcome: Literal["cancelled", "cancelling", "over"]


class Moved(View):
    """The answer to a promotion or a roll-back."""

    version: str = Field(description="The version that serves now.")
    before: str | None = Field(description="The version that served until then.")
    reason: str


class Nothing(View):
    """An empty object."""


class SyncWish(View):
    """What to sync: changes only, or everything again."""

    kind: Literal["incremental", "complete"] = "incremental"


class Problem(View):
    """What is wrong with a request; ``field`` is a dotted path, empty where no field is to blame."""

    field: str
    reason: str


class Refused(View):
    """Every refusal has this form."""

    error: Problem
