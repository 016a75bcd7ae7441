"""One refresh as a worker's job: one at a time for each project, and an end with a reason, whatever happens."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from ml_backend.errors import LeaseLost, RefitError, RunCancelled, Unavailable, VersionNotFound, WorkerStopping
from ml_backend.jsonable import sayable
from ml_backend.refresh import planning
from ml_backend.refresh.sending import Sending, TakenOver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ml_backend.backend import TrainingBackend
    from ml_backend.event_way import ProjectSettings
    from ml_backend.label_studio import LabelStudioApi
    from ml_backend.refresh.planning import Standing
    from ml_backend.refresh.record import Hold, Records
    from ml_backend.registry import Registry
    from ml_backend.state import ProjectState, State

log = logging.getLogger(__name__)


class Refresher:
    """Carries out refreshes. ``open_api`` raises `SettingsError` where Label Studio's address or key is not set.

    ``served(uid)`` is the version that the web names in `/setup`; ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        state: State,
        records: Records,
        registry: Registry,
        settings: ProjectSettings,
        make_model: Callable[[str, str, Mapping[str, Any]], TrainingBackend],
        open_api: Callable[[], LabelStudioApi],
        *,
        served: Callable[[str], str | None],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._state = state
        self._records = records
        self._registry = registry
        self._settings = settings
        self._make_model = make_model
        self._open_api = open_api
        self._served = served
        self._clock = clock
        self._pause = pause

    def run(self, uid: str) -> None:
        """Bring Label Studio's predictions of a project up to date. Raises only `Unavailable` and `WorkerStopping`."""
        project = self._state.load(uid)
        if project is None or project.deleted_at is not None:
            return
        hold = self._records.take(uid)
        if hold is None:
            # Whatever this one was for, the clock sees afterwards whether it is still wanted.
            log.info("project %s: its predictions are being refreshed already", uid)
            return
        try:
            self._carry_out(hold, project)
        except LeaseLost as lost:
            log.warning("project %s: %s", uid, lost)
        finally:
            with contextlib.suppress(Unavailable):
                self._records.release(hold)

    def _carry_out(self, hold: Hold, project: ProjectState) -> None:
        before = self._records.read(hold.uid)
        try:
            self._refresh(hold, project, before)
        except TakenOver as newer:
            self._records.end(hold, "waiting", str(newer), trigger=str(newer))
            log.info("project %s: %s", hold.uid, newer)
        except RunCancelled:
            self._records.end(hold, "cancelled", "cancelled", ended=self._clock(), sent=None, sent_at=None)
            self._say(hold.uid, "fresh predictions were cancelled")
        except WorkerStopping:
            self._records.end(hold, "waiting", "its worker was asked to stop", trigger="its worker was asked to stop")
            raise
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:
            # Label Studio's faults, the store's, and whatever a model author's code raises.
            log.exception("project %s: predictions could not be refreshed", hold.uid)
            self._failed(hold, before, error)

    def _refresh(self, hold: Hold, project: ProjectState, before: Standing) -> None:
        uid = hold.uid
        refit, params = self._settings.read(project.extra_params)
        version = self._registry.serving(uid)
        if version is None:
            raise VersionNotFound("no version serves yet")
        if (why := planning.blocked(refit.predictions)) is not None:
            self._records.end(hold, "off", why, version=version.name)
            return
        self._records.write(
            hold,
            status="running",
            version=version.name,
            phase="loading",
            reason=None,
            done=0,
            total=0,
            began=self._clock(),
            ended=None,
            tasks_at=project.last_tasks_at,
            task_number=project.reported.task_number if project.reported is not None else 0,
        )
        with self._open_api() as api:
            sending = Sending(
                api=api,
                records=self._records,
                hold=hold,
                registry=self._registry,
                version=version,
                settings=refit.predictions,
                before=before,
                budget_s=planning.budget_s(refit.predictions, project.training.last_seconds),
                make_model=lambda config: self._make_model(uid, config, params),
                accepted=lambda: self._state.accepted_tasks(uid),
                served=self._served,
                clock=self._clock,
                pause=self._pause,
            )
            said = sending.run()
        self._records.end(
            hold,
            "done",
            said,
            ended=self._clock(),
            failures=None,
            retry_at=None,
            covers=version.name,
            newest_us=sending.newest_us,
        )
        if sending.did_something:
            self._say(uid, said)

    def _failed(self, hold: Hold, before: Standing, error: Exception) -> None:
        now = self._clock()
        failures = before.failures + 1
        what = str(error) if isinstance(error, RefitError) else f"{type(error).__name__}: {error}"
        reason = sayable(f"predictions could not be refreshed: {what}"[:500])
        self._records.end(
            hold, "failed", reason, ended=now, failures=failures, retry_at=now + planning.retry_in(failures)
        )
        if reason != before.reason:
            self._say(hold.uid, reason)

    def _say(self, uid: str, reason: str) -> None:
        log.info("project %s: %s", uid, reason)
        self._state.decided(uid, "predictions", reason, self._clock())
