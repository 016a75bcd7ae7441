"""What people order from the page and the API: train, cancel, sync, promote, roll back. Each leaves its reason."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput, RegistryError, SettingsError, StoreUnavailable, VersionNotFound
from ml_backend.event_way import CLICK
from ml_backend.overview import views
from ml_backend.overview.reading import run_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ml_backend.overview.reading import Overview
    from ml_backend.promotion import Promotions
    from ml_backend.runs import Runs
    from ml_backend.state.syncing import SyncKind
    from ml_backend.sync import Syncs


log = logging.getLogger(__name__)


class Orders:
    """Carries out orders for one project at a time, so that the clock does the rest. ``by`` is who ordered.

    Methods raise `ProjectUnknown`, `BadInput`, `Unavailable`.
    """

    def __init__(
        self,
        overview: Overview,
        runs: Runs,
        syncs: Syncs,
        promotions: Promotions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._overview = overview
        self._runs = runs
        self._syncs = syncs
        self._promotions = promotions
        self._clock = clock

    def train(self, uid: str, by: str) -> views.Asked:
        """Train now with whatever there is, as *Start Training* does."""
        project = self._overview.known(uid)
        if project.deleted_at is not None:
            raise BadInput("project", "is not connected any more: nothing is trained for it", status=409)
        now = self._runs.time()
        asked = self._runs.request(uid, trigger=CLICK, reason=by, due=now, click=True, now=now)
        log.info("project %s run %s: asked for %s%s", uid, asked.id, by, ", joined" if asked.joined else "")
        return views.Asked(run=self._overview.run(asked.id), joined=asked.joined, held=asked.held)

    def cancel(self, run_id: str, by: str) -> views.Cancelled:
        """End a run that waits or trains; nothing of it is published."""
        outcome = self._runs.cancel(run_id, self._runs.time(), f"cancelled {by}")
        found = self._runs.get(run_id)
        if outcome is None or found is None:
            raise BadInput("run", "is not known, or no longer", status=404)
        log.info("project %s run %s: to be cancelled %s: %s", found.uid, found.id, by, outcome)
        return views.Cancelled(run=run_view(found), outcome=outcome)

    def sync(self, uid: str, kind: SyncKind, by: str) -> views.Sync:
        """Ask Label Studio for what its events did not tell."""
        project = self._overview.known(uid)
        if project.deleted_at is not None:
            raise BadInput("project", "is not connected any more: there is nothing to sync", status=409)
        try:
            self._syncs.order(uid, kind, by, self._clock())
        except SettingsError as error:
            raise BadInput("sync", str(error), status=409) from None
        log.info("project %s: sync: %s, asked for %s", uid, kind, by)
        return self._overview.sync(uid)

    def promote(self, uid: str, number: int, by: str) -> views.Moved:
        """Let a version serve."""
        with _refusing():
            moved = self._promotions.promote(uid, number, by=by)
        return views.Moved(version=moved.version.name, before=moved.before, reason=moved.reason)

    def roll_back(self, uid: str, by: str) -> views.Moved:
        """Let the version serve that served before."""
        with _refusing():
            moved = self._promotions.rollback(uid, by=by)
        return views.Moved(version=moved.version.name, before=moved.before, reason=moved.reason)


@contextmanager
def _refusing() -> Iterator[None]:
    """What the registry refuses is the caller's to hear; a store that is away is not the caller's fault."""
    try:
        yield
    except StoreUnavailable:
        raise
    except VersionNotFound as error:
        raise BadInput("version", str(error), status=404) from None
    except RegistryError as error:
        raise BadInput("version", str(error), status=409) from None
