"""Promoting and rolling back by hand: a person says which version serves, and why it does stays readable.

A person's word holds until a version that was compared with what they chose is found good enough. A run that was
compared with another version than the one that serves when it is done stays aside (`Registry.promote`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput, ProjectUnknown, PromotionRefused
from ml_backend.label_config import outdated, parse_label_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.event_way import ProjectSettings
    from ml_backend.registry import Registry, Version
    from ml_backend.state import ProjectState, State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moved:
    """Which version serves now, the name of the one that served until then, and the decision as people read it."""

    version: Version
    before: str | None
    reason: str


class Promotions:
    """Moves what serves, at a person's word.

    ``wake(uid, now)`` has the clock look at a project at once: it asks for fresh predictions, as after any promotion.
    """

    def __init__(
        self,
        state: State,
        registry: Registry,
        settings: ProjectSettings,
        *,
        wake: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._registry = registry
        self._settings = settings
        self._wake = wake
        self._clock = clock

    def promote(self, uid: str, version: int | str, *, by: str) -> Moved:
        """Let a version serve, given by its number or name; ``by`` is who asks, for people (``ml-backend promote``).

        Promoting what serves already changes nothing. Raises `ProjectUnknown`, `VersionNotFound`, `VersionCorrupt`,
        `PromotionRefused` when another version is pinned, `StoreUnavailable`, `Unavailable`.
        """
        project = self._project(uid)
        chosen = self._registry.find(uid, version if isinstance(version, str) else str(version))
        if (why := refused(self._settings.of(project).serve, chosen.number)) is not None:
            raise PromotionRefused(why)
        before = self._registry.alias(uid)
        now = self._clock()
        if before is not None and before.number == chosen.number:
            return Moved(
                self._registry.promote(uid, chosen.number, now=now), before.name, f"{chosen.name} serves already"
            )
        moved = self._registry.promote(uid, chosen.number, now=now)
        return self._moved(project, moved, before.name if before else None, f"promoted by {by}", "promoted", now)

    def rollback(self, uid: str, *, by: str) -> Moved:
        """Let serve what served before; repeated, it goes further back, past versions that are damaged or gone.

        Raises `ProjectUnknown`, `VersionNotFound` when there is nothing to go back to, `PromotionRefused` when one is
        pinned, `StoreUnavailable`, `Unavailable`.
        """
        project = self._project(uid)
        if (why := refused(self._settings.of(project).serve, None)) is not None:
            raise PromotionRefused(why)
        before = self._registry.alias(uid)
        now = self._clock()
        moved = self._registry.rollback(uid, now=now)
        return self._moved(project, moved, before.name if before else None, f"rolled back by {by}", "rolled back", now)

    def _project(self, uid: str) -> ProjectState:
        project = self._state.load(uid)
        if project is None:
            raise ProjectUnknown("project", "is not known here")
        return project

    def _moved(
        self, project: ProjectState, version: Version, before: str | None, how: str, kind: str, now: float
    ) -> Moved:
        uid = project.uid
        reason = f"{version.name} serves: {how}" + (f"; before it, {before} did" if before else "")
        if (lacks := self._lacks(uid, version)) is not None:
            reason += f"; note that it was trained under another label config: {lacks}"
        log.info("project %s: %s: %s", uid, kind, reason)
        self._state.decided(uid, kind, reason, now)
        self._wake(uid, now)
        return Moved(version, before, reason)

    def _lacks(self, uid: str, version: Version) -> str | None:
        try:
            trained = parse_label_config(version.manifest.label_config or "")
            return outdated(trained, parse_label_config(self._state.label_config(uid)))
        except BadInput:
            return None


def refused(pinned: int | None, chosen: int | None) -> str | None:
    """Why a person may not move what serves to version ``chosen`` (None: to the one before); None when they may.

    A pin is stronger than a click: the clock would move what serves back at once.
    """
    if pinned is None or pinned == chosen:
        return None
    return f"version {pinned} is pinned in the connection's extra params: take refit.serve out there first"
