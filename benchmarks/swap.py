"""A hot swap under load: 4 connections ask for predictions while the version that serves is changed again and again.

Usage: python -m benchmarks.swap [--json] [--short] [--rounds N]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.banking77 import Questions
from benchmarks.common import Options, Row, folder, options, report
from benchmarks.fed import UID, FedBackend, predict_body
from benchmarks.load import AUTHORIZATION
from ml_backend.cli.show import open_services
from ml_backend.settings import Settings
from tests.running import wait_until
from tests.steady import Answer, Steady

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml_backend.bootstrap import Services

LEAST_WINDOW_S = 0.2


def second_version(services: Services, backend: FedBackend) -> None:
    """Train once more; whether it is promoted does not matter here."""
    now = time.time()
    run = services.runs.request(UID, trigger="benchmark", reason="a second version", due=now, click=True, now=now).id
    wait_until(lambda: (found := services.runs.get(run)) is not None and found.over, 180, "the second version")
    backend.served()


def swapped(services: Services, steady: Steady, number: int) -> tuple[float, float]:
    """Let another version serve; when that was asked for, and when the last answer of the old one had come."""
    asked = time.monotonic()
    name = services.promotion().promote(UID, number, by="the benchmark").version.name
    known = len(steady.answers)

    def all_new() -> bool:
        # Two web processes, four connections: whatever is answered by the new one only for a while is swapped.
        latest = [one for one in steady.answers[known:] if one.began > time.monotonic() - 0.5]
        return time.monotonic() > asked + 0.7 and bool(latest) and all(one.versions == (name,) for one in latest)

    wait_until(all_new, 30, f"{name} answers alone")
    old = [one.began + one.took for one in steady.answers if one.began + one.took > asked and one.versions != (name,)]
    return asked, max([asked + LEAST_WINDOW_S, *old])


def p99(answers: Sequence[Answer]) -> float:
    """Milliseconds."""
    times = sorted(one.took for one in answers)
    return 1000 * times[min(len(times) - 1, int(len(times) * 0.99))]


def measured(chosen: Options) -> list[Row]:
    """Swap back and forth; windows during swaps beside windows of the same length right before each."""
    questions = Questions.read(intents=5 if chosen.short else None)
    size, swaps = (50, 2) if chosen.short else (1_000, 10 * chosen.rounds)
    with folder() as where, FedBackend(where, questions.labels, size) as backend:
        backend.feed(questions.train[:size])
        backend.wait_for_version()
        services = open_services(Settings.from_environment({}, data_dir=backend.data_dir))
        second_version(services, backend)
        body = predict_body([questions.test[0][0]], backend.config)
        windows: list[tuple[float, float]] = []
        with Steady(backend.port, body, {"Authorization": AUTHORIZATION}) as steady:
            services.promotion().promote(UID, 2, by="the benchmark")
            time.sleep(2.0)
            windows += [swapped(services, steady, 1 + swap % 2) for swap in range(swaps)]
        services.close()
    failed = [one for one in steady.answers if one.status != 200 or len(one.versions) != 1]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(steady.answers)} requests failed: {failed[0]}")
    during = [one for one in steady.answers if any(begin <= one.began < end for begin, end in windows)]
    before = [one for one in steady.answers if any(2 * begin - end <= one.began < begin for begin, end in windows)]
    ours, peer = p99(during), p99(before)
    longest = max(end - begin for begin, end in windows)
    note = (
        f"{swaps} swaps, each over within {1000 * longest:.0f} ms; {len(during)} requests during them and "
        f"{len(before)} before, of {len(steady.answers):,} in all none failed"
    )
    return [
        Row("/predict p99 during a swap, beside before", ours, "ms", peer, ours / peer, "<= 2", ours <= 2 * peer, note)
    ]


def main() -> None:
    """The command."""
    chosen = options(__doc__, rounds=3)
    report("Hot swaps under load, 4 connections", measured(chosen), chosen)


if __name__ == "__main__":
    main()
