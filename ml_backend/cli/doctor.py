"""doctor: what is wrong and what to do, as a table or for scripts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ml_backend.cli.show import as_started, open_services
from ml_backend.cli.terminal import Console
from ml_backend.doctor import examine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml_backend.doctor import Finding
    from ml_backend.settings import Settings

_SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "red"), "unknown": ("?", "magenta")}


def show_doctor(settings: Settings, projects: Sequence[int], *, as_json: bool) -> int:
    """Examine and show; the exit status is 1 when there is a problem, else 0."""
    logging.disable(logging.WARNING)  # what libraries say meanwhile stands in the findings
    services = open_services(as_started(settings))
    console = Console(highlight=False)
    if as_json:
        found = examine(services, projects)
        console.json(found)
    else:
        with Console(stderr=True).status("looking"):
            found = examine(services, projects)
        _table(console, found)
    return 1 if any(one.verdict == "problem" for one in found) else 0


def _table(console: Console, found: Sequence[Finding]) -> None:
    subjects = list(dict.fromkeys(one.subject for one in found))
    for subject in subjects:
        table = Table(title=f"Project {subject}" if subject else "Installation", title_justify="left", expand=False)
        table.add_column("check", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("found, and what to do", overflow="fold")
        for one in found:
            if one.subject == subject:
                sign, colour = _SIGNS[one.verdict]
                text = Text(one.found)
                if one.advice:
                    text.append(f"\n→ {one.advice}", style="bold" if one.verdict == "problem" else "dim")
                table.add_row(one.check, Text(sign, style=colour), text)
        console.print(table)
    problems = sum(one.verdict == "problem" for one in found)
    said = "No problem found." if not problems else f"{problems} problem{'s' if problems > 1 else ''} found."
    console.print(said, style="green" if not problems else "bold red")
