"""When a refresh is asked for: by the run that promoted, and by the clock for everything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ml_backend.errors import RegistryError
from ml_backend.refresh import planning
from ml_backend.uids import without_dot

if TYPE_CHECKING:
    from ml_backend.event_way import ProjectSettings
    from ml_backend.jobs import Jobs
    from ml_backend.refresh.record import Records
    from ml_backend.registry import Registry
    from ml_backend.state import ProjectState, State

log = logging.getLogger(__name__)

_STORE_AWAY_S = 60.0


class Refreshing:
    """Enqueues refreshes on the queue ``predict``. ``missing`` names the variables without which none can be made.

    Promotions by hand, roll-backs, new tasks, lost workers, failures and predictions that may be deleted: whatever
    asked for a refresh and was lost, the clock sees that the project does not stand as it should, and asks again.
    """

    def __init__(
        self,
        state: State,
        records: Records,
        registry: Registry,
        jobs: Jobs,
        settings: ProjectSettings,
        *,
        missing: tuple[str, ...],
        timeout_s: float,
    ) -> None:
        self._state = state
        self._records = records
        self._registry = registry
        self._jobs = jobs
        self._settings = settings
        self._missing = missing
        self._timeout_s = timeout_s

    def promoted(self, uid: str, now: float) -> None:
        """A version was promoted: ask at once, not with the next tick."""
        project = self._state.load(uid)
        if project is not None:
            self.consider(project, now)

    def consider(self, project: ProjectState, now: float) -> float | None:
        """Ask for a refresh if one is due; returns when to consider it again. Raises `Unavailable`."""
        if not project.training.trained:
            return None
        uid = project.uid
        try:
            alias = self._registry.alias(uid)
        except RegistryError as error:
            log.warning("project %s: what serves is not known, predictions wait: %s", uid, error)
            return now + _STORE_AWAY_S
        if alias is None:
            return None
        known = planning.Known(
            version=alias.name,
            tasks_at=project.last_tasks_at,
            task_number=project.reported.task_number if project.reported is not None else 0,
            blocked=planning.blocked(self._settings.of(project).predictions, self._missing),
        )
        decided = planning.due(self._records.read(uid), known, now)
        if decided.off is not None:
            self._records.off(uid, alias.name, decided.off)
            self._state.decided(uid, "predictions", decided.off, now)
        elif decided.ask is not None:
            self._records.asked(uid, alias.name, decided.ask)
            if self._ask(uid):
                log.info("project %s: fresh predictions of %s: %s", uid, alias.name, decided.ask)
        return decided.look_at

    def _ask(self, uid: str) -> bool:
        return self._jobs.enqueue("predict", "refresh", {"uid": uid}, key=without_dot(uid), timeout_s=self._timeout_s)
