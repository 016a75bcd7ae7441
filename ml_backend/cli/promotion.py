"""promote and rollback: which version serves, at a person's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.cli.show import find_uid, open_services
from ml_backend.cli.terminal import Console

if TYPE_CHECKING:
    from ml_backend.settings import Settings


def promote_version(settings: Settings, project: str | None, version: str) -> None:
    """Let a version serve; raises what `Promotions.promote` raises."""
    services = open_services(settings)
    _say(services.promotion().promote(find_uid(services, project), version, by="ml-backend promote").reason)


def roll_back(settings: Settings, project: str | None) -> None:
    """Let serve what served before; raises what `Promotions.rollback` raises."""
    services = open_services(settings)
    _say(services.promotion().rollback(find_uid(services, project), by="ml-backend rollback").reason)


def _say(reason: str) -> None:
    Console(soft_wrap=True).print(reason, highlight=False, markup=False)
