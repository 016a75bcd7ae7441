"""The folder in which the demo's Label Studio lives, and what is remembered there between starts."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "1.23.2"
EMAIL = "demo@example.com"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for its owner alone, and the port that Label Studio answers on."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where people and the backend find Label Studio."""
        return f"http://localhost:{self.port}"

    @property
    def data(self) -> Path:
        """Label Studio's own folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What Label Studio prints."""
        return self.folder / "label-studio.log"

    @property
    def key_file(self) -> Path:
        """The personal access token, once there is one."""
        return self.folder / "key"

    @property
    def password(self) -> str:
        """The login's password, made at the first start."""
        path = self.folder / "password"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.keep("password", secrets.token_urlsafe(12))
        return path.read_text(encoding="ascii").strip()

    def keep(self, name: str, text: str) -> None:
        """Write a small file that only its owner can read; it appears whole."""
        beside = self.folder / f".{name}"
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")
        beside.replace(self.folder / name)

    def kept(self, name: str) -> str:
        """Its text; empty when it is not there."""
        try:
            return (self.folder / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    def last_words(self) -> str:
        """The end of Label Studio's log, for when it does not come up."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return "it printed nothing"
        return f"see {self.log}: {lines[-1][:300]}" if lines else "it printed nothing"
