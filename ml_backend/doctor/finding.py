"""What a check finds: whether it is well, what was seen, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "problem", "unknown"]
"""``note``: works, and somebody should know; ``unknown``: could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``check`` is a stable name for scripts, ``subject`` a project ("" for the installation).

    ``advice`` says what to do, empty where there is nothing to do. None of the texts holds a secret.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    subject: str = ""


def ok(check: str, found: str, subject: str = "") -> Finding:
    """It is well."""
    return Finding(check, "ok", found, "", subject)


def note(check: str, found: str, advice: str = "", subject: str = "") -> Finding:
    """It works, and somebody should know."""
    return Finding(check, "note", found, advice, subject)


def problem(check: str, found: str, advice: str, subject: str = "") -> Finding:
    """It is wrong."""
    return Finding(check, "problem", found, advice, subject)


def unknown(check: str, found: str, advice: str = "", subject: str = "") -> Finding:
    """It could not be found out."""
    return Finding(check, "unknown", found, advice, subject)
