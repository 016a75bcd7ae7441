"""A project as it stands in Redis, as one frozen value that decisions are made from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ml_backend.counters import Counters, DerivedCounters
from ml_backend.label_config import config_hash
from ml_backend.policy import TrainingState
from ml_backend.state.schema import refuse_newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DRIFT = tuple(one.name for one in dataclasses.fields(DerivedCounters))


@dataclass(frozen=True, slots=True)
class ProjectState:
    """What is known of a project. ``extra_params`` is the JSON text that `/setup` brought.

    ``synced_at`` is when the last sync ended, ``complete_at`` the last complete one; ``synced_until_us`` is the moment
    on Label Studio's clock up to which an incremental sync need not look again. ``complete_wanted_at`` and
    ``incremental_wanted_at`` are when an event last asked for a sync that has not been since (facts 9, 11, 23).
    ``last_start_at`` is when `START_TRAINING` last came, ``last_tasks_at`` when `TASKS_CREATED` did, ``heard_at`` when
    the webhook last brought anything new.
    """

    uid: str
    project_id: int
    title: str
    config_hash: str
    extra_params: str
    reported: Counters | None
    derived: DerivedCounters
    bulk_accepted: int
    drift: Mapping[str, int]
    drift_since: float | None
    dataless: bool
    last_annotation_at: float | None
    touch: int
    training: TrainingState
    waiting: str | None = None
    synced_at: float | None = None
    complete_at: float | None = None
    synced_until_us: int | None = None
    complete_wanted_at: float | None = None
    incremental_wanted_at: float | None = None
    last_start_at: float | None = None
    last_tasks_at: float | None = None
    heard_at: float | None = None
    deleted_at: float | None = None
    trained_config_hash: str = ""
    meta: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def counters(self) -> dict[str, int]:
        """All eight: derived from the training set where it determines them, else as last reported."""
        found = dict.fromkeys(Counters.names(), 0)
        if self.reported is not None:
            found.update(self.reported.as_dict())
        found.update({name: getattr(self.derived, name) for name in _DRIFT})
        return found

    @property
    def missing(self) -> int:
        """Annotations that Label Studio has and the training set has not, as far as totals tell."""
        return max(0, self.drift.get("total_annotations_number", 0) + self.drift.get("skipped_annotations_number", 0))


@dataclass(frozen=True, slots=True)
class Known:
    """The fields of a project that a ``/setup`` could change, as Redis holds them; None for what is not there."""

    config_hash: str | None = None
    extra_params: str | None = None
    deleted_at: str | None = None
    unsupported: str | None = None

    FIELDS: ClassVar[tuple[str, ...]] = ("config_hash", "params", "deleted_at", "unsupported")
    """Their names in Redis, in this order."""

    def holds(self, label_config: str, extra_params: str | None) -> bool:
        """Whether a ``/setup`` with these would change nothing; ``extra_params`` is None where it does not say."""
        return (
            self.deleted_at is None
            and self.config_hash is not None
            and (not label_config or config_hash(label_config) == self.config_hash)
            and (not extra_params or extra_params == self.extra_params)
        )


def project_state(
    meta: Mapping[str, str],
    *,
    changed: int,
    running: str,
    waiting: str,
    runs: Mapping[str, str],
    paused: str,
    starts: Iterable[float] = (),
) -> ProjectState:
    """Build it from the hashes as the scripts return them. Raises `NewerState` for a newer release's."""
    refuse_newer(meta.get("schema"), f"the state of project {meta['uid']}")
    derived = DerivedCounters(
        total_annotations_number=int(meta.get("total", 0)),
        num_tasks_with_annotations=int(meta.get("tasks", 0)),
        useful_annotation_number=int(meta.get("useful", 0)),
        ground_truth_number=int(meta.get("gt", 0)),
        skipped_annotations_number=int(meta.get("skipped", 0)),
    )
    reported = meta.get("reported")
    drift = meta.get("drift")
    failures = int(runs.get("failures") or 0)
    # A label config that was tried, and could not be trained for, is not tried again and again.
    tried = meta.get("attempted_config") == meta.get("config_hash") and not failures
    training = TrainingState(
        useful=derived.useful_annotation_number,
        trainable=int(meta.get("trainable", 0)),
        changed=changed,
        seq=int(meta.get("seq", 0)),
        project_min_annotations=int(meta["threshold"]) if "threshold" in meta else None,
        first_change_at=_time(meta, "first_change"),
        last_change_at=_time(meta, "last_change"),
        threshold_at=_time(meta, "threshold_at"),
        trained="trained_size" in meta,
        trained_size=int(meta.get("trained_size", 0)),
        attempted_seq=int(meta.get("attempted_seq", -1)),
        last_ended_at=_time(runs, "last_ended"),
        last_seconds=float(meta.get("last_seconds", 0)),
        recent_starts=tuple(starts),
        failures=failures,
        paused=paused or None,
        outdated=None if tried else meta.get("outdated") or None,
        running=running or None,
        drifting=bool(drift),
    )
    return ProjectState(
        uid=meta["uid"],
        project_id=int(meta["project"]),
        title=meta.get("title", ""),
        config_hash=meta.get("config_hash", ""),
        extra_params=meta.get("params", ""),
        reported=Counters(*(int(value) for value in reported.split(","))) if reported else None,
        derived=derived,
        bulk_accepted=int(meta.get("bulk", 0)),
        drift=dict(zip(_DRIFT, (int(value) for value in drift.split(",")), strict=True)) if drift else {},
        drift_since=_time(meta, "drift_since"),
        dataless="dataless" in meta,
        last_annotation_at=_time(meta, "last_annotation"),
        touch=int(meta.get("touch", 0)),
        training=training,
        waiting=waiting or None,
        synced_at=_time(meta, "synced_at"),
        complete_at=_time(meta, "complete_at"),
        synced_until_us=int(meta["synced_until"]) if meta.get("synced_until") else None,
        complete_wanted_at=_time(meta, "want_complete"),
        incremental_wanted_at=_time(meta, "want_incremental"),
        last_start_at=_time(meta, "last_start"),
        last_tasks_at=_time(meta, "last_tasks"),
        heard_at=_time(meta, "heard"),
        deleted_at=_time(meta, "deleted_at"),
        trained_config_hash=meta.get("trained_config", ""),
        meta=meta,
    )


def _time(values: Mapping[str, str], name: str) -> float | None:
    value = values.get(name)
    return float(value) if value else None
