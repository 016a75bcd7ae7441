"""Secrets that stand in files, as Docker and Kubernetes hand them out: ``LABEL_STUDIO_API_KEY_FILE`` and the like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.errors import SettingsError
from ml_backend.settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def read_secret_files(environment: MutableMapping[str, str]) -> None:
    """Set each secret that is not set itself from the file that ``<name>_FILE`` names.

    Raises `SettingsError` naming the variable.
    """
    for name in SECRETS:
        path = environment.get(f"{name}_FILE")
        if path and not environment.get(name):
            try:
                environment[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{name}_FILE", f"{path} cannot be read: {error}") from None
