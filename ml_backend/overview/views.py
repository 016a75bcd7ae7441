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

    have: Count = Field(description="Annotations that count towards it.")
    need: Count = Field(description="Annotations that it needs.")
    fraction: Fraction = Field(description="`have` of `need`, 1 at most.")
    first: bool = Field(description="Whether it is the first training that is waited for.")


class NextTraining(View):
    """What is decided at this moment, and why."""

    kind: Literal["train", "wait", "nothing"] = Field(
        description="Whether a training is due, is waited for, or has no reason."
    )
    reason: str = Field(description="Why, for people.")
    until: Moment | None = Field(description="When it is decided again, if nothing changes before.")


class Decision(View):
    """One decision of the past."""

    at: Moment
    kind: str = Field(description="train, wait, nothing, promoted, kept aside, lost, resumed, pinned, predictions …")
    reason: str = Field(description="Why, for people.")


class Counters(View):
    """The project's eight counters."""

    task_number: int = Field(description="Tasks.")
    finished_task_number: int = Field(description="Tasks that need no more annotations.")
    total_predictions_number: int = Field(description="Predictions that Label Studio holds.")
    total_annotations_number: int = Field(description="Annotations, without skipped ones.")
    num_tasks_with_annotations: int = Field(description="Tasks with an annotation.")
    useful_annotation_number: int = Field(description="Annotations that are neither skipped nor ground truth.")
    ground_truth_number: int = Field(description="Annotations marked as ground truth, as imported ones are.")
    skipped_annotations_number: int = Field(description="Annotations that were skipped.")


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
    since: Moment | None = Field(description="Since when something is missing.")


class Message(View):
    """What a run said of itself."""

    at: Moment
    phase: str = Field(description="What it was doing.")
    fraction: Fraction = Field(description="How far it was.")
    message: str = Field(description="What the model said; may be empty.")


class Run(View):
    """One training run."""

    id: str = Field(description="Its id, as in `2-1795333883-1`.")
    number: int = Field(description="The run's place in its project, from 1.")
    project: str = Field(description="The uid of its project.")
    status: Literal["queued", "started", "succeeded", "failed", "cancelled", "lost"] = Field(
        description="Where it stands; the last four are over."
    )
    trigger: str = Field(description="The event or the rule that asked for it.")
    click: bool = Field(description="Whether a person asked for it.")
    reason: str = Field(description="Why it was asked for.")
    requested_at: Moment = Field(description="When it was asked for.")
    due_at: Moment = Field(description="When it may start.")
    started_at: Moment | None = Field(description="When it last started.")
    ended_at: Moment | None = Field(description="When it was over.")
    seconds: float | None = Field(description="From its last start to its end.")
    phase: str = Field(description="starting, sync, snapshot, train, compare, publish or promote.")
    fraction: Fraction = Field(description="How far it is.")
    message: str = Field(description="What it said last.")
    messages: list[Message] = Field(description="What it said last, newest first; kept while it trains and a day.")
    cancelling: bool = Field(description="Whether it is told to stop and has not yet.")
    joined: Count = Field(description="Requests that came while it waited.")
    attempts: Count = Field(description="How often it started.")
    losses: Count = Field(description="How often its worker was lost.")
    worker: str = Field(description="The process that trains it.")
    ending: str = Field(description="What came of it, for people.")
    error: str = Field(description="What went wrong, if something did.")


class Score(View):
    """The one score that stands for a version."""

    name: str = Field(description="Which score, accuracy for instance.")
    value: float = Field(description="The score.")
    compared_on: Count = Field(description="Examples that it was not trained on; 0 for a score by the model itself.")
    informative: bool = Field(description="Made by the model itself, cross-validated for instance: decided nothing.")


class Version(View):
    """One version of a project's model."""

    number: int = Field(description="Its number in the project; never used twice.")
    name: str = Field(description="What Label Studio shows as the model version.")
    status: Literal["serving", "standby", "kept aside"] = Field(
        description="Whether it serves, did or could, or was not good enough."
    )
    created_at: Moment = Field(description="When it was published.")
    score: Score | None = Field(description="The one that stands for it.")
    scores: dict[str, float] = Field(description="On examples that it was not trained on.")
    scores_before: dict[str, float] = Field(description="Of the version that served then, on the same examples.")
    information: dict[str, float] = Field(description="Scores that decided nothing.")
    compared_on: Count = Field(description="Examples that it was compared on.")
    promoted: bool = Field(description="Whether it was good enough to serve.")
    verdict: str = Field(description="Why it was promoted or kept aside.")
    tasks: Count = Field(description="Tasks that it was trained on.")
    annotations: Count = Field(description="Annotations that it was trained on.")
    held_out: Count = Field(description="Examples that were kept from it, for the comparison.")
    trigger: str = Field(description="What asked for its run.")
    reason: str = Field(description="Why its run was asked for.")
    run: str = Field(description="Its run's id.")
    parent: int | None = Field(description="The version that served when it was trained.")
    seconds: float = Field(description="How long its run took.")
    durations: dict[str, float] = Field(description="Seconds by phase.")
    bytes: Count = Field(description="Size of its files.")


class LoadError(View):
    """A version that a web process could not load."""

    process: str = Field(description="The web process.")
    version: str = Field(description="The version's name.")
    error: str = Field(description="What went wrong.")
    at: Moment


class Serving(View):
    """Which version must serve, and which one does."""

    number: int = Field(description="The version's number.")
    name: str = Field(description="The version's name.")
    since: Moment = Field(description="When it was promoted.")
    ready: bool = Field(description="Whether every live web process serves it.")
    previous: int | None = Field(description="The version that a roll-back would bring back.")
    pinned: bool = Field(description="Whether the connection's extra params pin a version.")


class Sync(View):
    """How the project's sync with Label Studio stands."""

    problem: str | None = Field(description="Why Label Studio cannot be asked at all.")
    running: bool = Field(description="Whether one runs.")
    waiting: bool = Field(description="Whether one was asked for and has not begun.")
    kind: str = Field(description="incremental or complete; empty before the first.")
    phase: str = Field(description="What it is doing.")
    done: Count = Field(description="How much of `total` is done.")
    total: Count = Field(description="0 where it is not known.")
    message: str = Field(description="What it said last.")
    error: str = Field(description="Why the last one failed; empty if it did not.")
    outcome: str = Field(description="What came of the last one.")
    ended: Moment | None = Field(description="When the last one succeeded.")
    next_try: Moment | None = Field(description="When it is tried again.")


class Refresh(View):
    """How the project's refresh of predictions stands."""

    status: Literal["", "waiting", "running", "done", "failed", "cancelled", "off"] = Field(
        description="Where it stands; empty before the first."
    )
    version: str = Field(description="The version whose predictions are sent.")
    phase: str = Field(description="What it is doing.")
    reason: str = Field(description="Why it waits, failed or is off.")
    done: Count = Field(description="How many of `total` tasks are done.")
    total: Count = Field(description="Tasks that get a prediction.")
    began: Moment | None = Field(description="When it began.")
    ended: Moment | None = Field(description="When it was over.")
    retry_at: Moment | None = Field(description="When it is tried again.")
    cancelling: bool = Field(description="Whether it is told to stop and has not yet.")


class Project(View):
    """One project, as it stands."""

    uid: str = Field(description="Label Studio's own uid of the project: `<id>.<created_at>`.")
    id: int = Field(description="Its number in Label Studio.")
    title: str = Field(description="Its title in Label Studio.")
    connected: bool = Field(description="Whether Label Studio has a connection to this backend for it.")
    progress: Progress = Field(description="How far the next training is.")
    next_training: NextTraining = Field(description="What is decided at this moment.")
    counters: Counters = Field(description="As Label Studio told them last.")
    training_set: TrainingSet = Field(description="What a training would see now.")
    drift: Drift = Field(description="How far that is from Label Studio's own.")
    serving: Serving | None = Field(description="The version that serves.")
    load_errors: list[LoadError] = Field(description="Versions that could not be loaded.")
    running: Run | None = Field(description="The run that trains.")
    waiting: Run | None = Field(description="The run that waits.")
    paused: str | None = Field(description="Why nothing starts by itself.")
    outdated: str | None = Field(description="Why the label config asks for a new model.")
    unsupported: str | None = Field(description="Why this model does not support the label config.")
    last_annotation_at: Moment | None = Field(description="When an annotation last changed.")
    sync: Sync = Field(description="How its sync with Label Studio stands.")
    refresh: Refresh = Field(description="How its refresh of predictions stands.")
    decisions: list[Decision] = Field(description="The last ten, newest first.")


class Queue(View):
    """One queue of jobs."""

    waiting: Count = Field(description="Jobs that wait.")
    workers: Count = Field(description="Live workers.")


class System(View):
    """The backend itself."""

    version: str = Field(description="The backend's own version.")
    model: str = Field(description="The model's class.")
    label_studio: str | None = Field(description="Label Studio's address.")
    queues: dict[str, Queue] = Field(description="By name.")


class Projects(View):
    """Every known project."""

    projects: list[Project] = Field(description="Connected ones first, by number.")


class Runs(View):
    """A project's runs: what waits, what trains, then what is over, newest first."""

    runs: list[Run] = Field(description="What waits and trains stands first.")


class Versions(View):
    """A project's versions, newest first."""

    versions: list[Version] = Field(description="As many as are kept.")


class Decisions(View):
    """A project's decisions, newest first."""

    decisions: list[Decision] = Field(description="Newest first.")


class Asked(View):
    """The answer to a request for a run."""

    run: Run = Field(description="The run that waits now.")
    joined: bool = Field(description="Whether a run waited already.")
    held: str = Field(description="Why it does not start although it waits.")


class Cancelled(View):
    """The answer to a cancellation."""

    run: Run = Field(description="The run, as it stands then.")
    outcome: Literal["cancelled", "cancelling", "over"] = Field(description="At once, told to stop, or too late.")


class Moved(View):
    """The answer to a promotion or a roll-back."""

    version: str = Field(description="The version that serves now.")
    before: str | None = Field(description="The version that served until then.")
    reason: str = Field(description="What the decision says.")


class Nothing(View):
    """An empty object."""


class SyncWish(View):
    """What to sync: changes only, or everything again."""

    kind: Literal["incremental", "complete"] = Field(default="incremental", description="Which.")


class Problem(View):
    """What is wrong with a request; ``field`` is a dotted path, empty where no field is to blame."""

    field: str = Field(description="What is wrong, as a dotted path; empty where no field is to blame.")
    reason: str = Field(description="Why, for people.")


class Refused(View):
    """Every refusal has this form."""

    error: Problem = Field(description="What is wrong.")
