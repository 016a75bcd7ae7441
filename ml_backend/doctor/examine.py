"""Runs the checks: those that wait do so at the same time, and none for longer than its deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ml_backend.doctor import label_studio, machine, projects, redis
from ml_backend.doctor.finding import Finding, unknown
from ml_backend.errors import RefitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ml_backend.bootstrap import Services

    Check = Callable[[], Iterable[Finding]]

DEADLINE_S = 15.0


def examine(services: Services, project_ids: Sequence[int] = (), *, deadline_s: float = DEADLINE_S) -> list[Finding]:
    """Everything that was found, in a fixed order: the installation first, then each project.

    ``project_ids``: which of Label Studio's projects to look at; those that are known here, if none is named.
    """
    here: list[tuple[str, Check]] = [
        ("redis", lambda: redis.check(services.redis)),
        ("processes", lambda: machine.processes(services)),
        ("answers", lambda: machine.answers(services)),
        ("store", lambda: machine.store(services)),
        ("packages", machine.packages),
        ("model", lambda: machine.model(services)),
        ("proxy", lambda: label_studio.proxy(services)),
        ("label studio", lambda: label_studio.check(services)),
    ]
    found = run(here, deadline_s)
    if any(one.verdict == "problem" and one.check in {"redis", "label-studio", "label-studio.key"} for one in found):
        return found
    count = len(project_ids or services.state.uids())
    return found + run([("projects", lambda: projects.check(services, project_ids))], deadline_s * max(2, count))


def run(checks: Sequence[tuple[str, Check]], deadline_s: float) -> list[Finding]:
    """Run them side by side; a check that takes too long, or fails, is a finding itself."""
    started = [(name, _started(check)) for name, check in checks]
    until = time.monotonic() + deadline_s
    found: list[Finding] = []
    for name, future in started:
        try:
            found += future.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            found.append(unknown(name, f"this check did not end within {deadline_s:g} s", "look there first"))
        except RefitError as error:
            found.append(unknown(name, f"could not be checked: {error}"))
    return found


def _started(check: Check) -> Future[list[Finding]]:
    future: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            future.set_result(list(check()))
        except BaseException as error:
            future.set_exception(error)

    # Not a pool: its threads would be waited for at exit, however long they hang.
    threading.Thread(target=work, daemon=True).start()
    return future
