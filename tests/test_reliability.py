"""docs/reliability.md: no row without a test, and every test that it names exists and is collected."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| tried", "| ---"))]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_row_says_what_was_tried_expected_and_seen_and_names_a_test() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row
        assert NAMED.search(cells[3]), row


def test_every_test_that_it_names_is_collected(request: pytest.FixtureRequest) -> None:
    named = {(file, test) for row in ROWS for file, test in NAMED.findall(row)}
    missing = named - names(one.nodeid for one in request.session.items)
    if files := sorted({f"tests/{file}" for file, _ in missing}):
        # Only a part of the suite runs, or the page names what is not there.
        asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
        ran = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        missing -= names(ran.stdout.splitlines())
    assert sorted(missing) == []


def names(ids: Iterable[str]) -> set[tuple[str, str]]:
    """(file, function) of each node id; the bracket of a parameter may hold anything."""
    plain = [one.partition("[")[0].split("::") for one in ids]
    return {(Path(parts[0]).name, parts[-1]) for parts in plain if len(parts) > 1}
