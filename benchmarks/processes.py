"""What processes cost, read from /proc: CPU seconds and memory of a process and everything below it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and everything below it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(*pids: int) -> float:
    """User and system time so far of these processes and what is below them; ended ones are not counted."""
    total = 0.0
    for pid in {one for each in pids for one in tree(each)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def command(pid: int) -> str:
    """The command line, its parts joined by blanks; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident, proportional) set size in MB: the second counts pages that processes share in parts."""
    resident = proportional = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Rss":
            resident = int(rest.split()[0])
        elif name == "Pss":
            proportional = int(rest.split()[0])
    return resident / 1024, proportional / 1024


def settled(pid: int, *, below: float = 0.05, deadline_s: float = 20.0) -> None:
    """Wait until the process and everything below it has come to rest (uses less than ``below`` of a core)."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before <= 0.5 * below:
            return
