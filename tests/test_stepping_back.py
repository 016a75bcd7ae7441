"""Runs and refreshes step back: on a machine that does all of it, those that somebody waits for come first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUP = Path("/proc/self/autogroup")
grouped = pytest.mark.skipif(not GROUP.exists(), reason="this kernel does not group by session")

_SAY = """
import json, os
from pathlib import Path
from ml_backend.stepping_back import step_back
def now():
    # A session that began before the kernel grouped any is in none: its file is empty.
    group = Path("/proc/self/autogroup")
    said = group.read_text().split() if group.exists() else []
    return [os.getpriority(os.PRIO_PROCESS, 0), said[-1] if said else ""]
before = now()
step_back(7)
print(json.dumps([before, now()]))
"""


def said(*, own_session: bool) -> tuple[tuple[int, str], tuple[int, str]]:
    """Nice value of a process and of its session, before it steps back by seven, and after."""
    argv = [sys.executable, "-c", _SAY]
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(argv, check=True, capture_output=True, env=told, start_new_session=own_session).stdout
    before, after = json.loads(out)
    return tuple(before), tuple(after)


def test_a_process_that_steps_back_has_a_higher_nice_value() -> None:
    (before, _), (after, _) = said(own_session=False)

    assert after == min(before + 7, 19)


@grouped
def test_the_session_that_it_leads_steps_back_with_it() -> None:
    _, (_, group) = said(own_session=True)

    assert group == "7"


@grouped
def test_a_session_that_others_lead_stays_where_it_is() -> None:
    (_, before), (_, after) = said(own_session=False)

    assert after == before
