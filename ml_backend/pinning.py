"""Pinned versions: a project's extra params may name the one version that serves, whatever is promoted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ml_backend.errors import RegistryError

if TYPE_CHECKING:
    from ml_backend.event_way import ProjectSettings
    from ml_backend.registry import Registry
    from ml_backend.state import ProjectState, State

log = logging.getLogger(__name__)


class Pinning:
    """Moves what serves to the pinned version; a pin that cannot be served is said once."""

    def __init__(self, state: State, registry: Registry, settings: ProjectSettings) -> None:
        self._state = state
        self._registry = registry
        self._settings = settings

    def consider(self, project: ProjectState, now: float) -> float | None:
        """Promote the pinned version if another one serves."""
        pinned = self._settings.of(project).serve
        if pinned is None:
            return None
        serving = self._registry.alias(project.uid)
        if serving is not None and serving.number == pinned:
            return None
        try:
            version = self._registry.promote(project.uid, pinned, now=now)
        except RegistryError as error:
            self._say(project, f"version {pinned} is pinned and cannot serve: {error}", now)
        else:
            self._say(project, f"{version.name} serves: it is pinned in the connection's extra params", now)
        return None

    def _say(self, project: ProjectState, reason: str, now: float) -> None:
        if project.meta.get("pinned") != reason:
            log.info("project %s: pinned: %s", project.uid, reason)
            self._state.mark(project.uid, pinned=reason)
            self._state.decided(project.uid, "pinned", reason, now)
