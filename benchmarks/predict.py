"""Predictions a second: ours, a bare Flask view that calls the same loaded classifier, and label-studio-ml 1.0.9.

The peer serves the pipeline of the official scikit-learn example (TF-IDF of 1 to 3 words, logistic regression).
Usage: python -m benchmarks.predict [--json] [--short] [--rounds N] [--only bare|peer]
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.banking77 import Questions
from benchmarks.common import Options, Row, Server, alternate, bare, compared, folder, options, report
from benchmarks.fed import FedBackend, predict_body
from benchmarks.load import Request, ask, load
from benchmarks.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (1, 100, 10_000)
PARTS = ("bare", "peer")


def tasks_per_second(port: int, body: bytes, size: int, length_s: float) -> Callable[[], float]:
    """Small requests on 4 connections, large ones one after the other."""
    if size <= 100:
        return lambda: size * load(port, Request("POST", "/predict", body), length_s).per_second

    def measure() -> float:
        began, made = time.perf_counter(), 0
        while made == 0 or time.perf_counter() - began < length_s:
            status, answer = ask(port, "POST", "/predict", body)
            if status != 200 or len(answer["results"]) != size:
                raise RuntimeError(f"{status}: not as many predictions as tasks")
            made += size
        return made / (time.perf_counter() - began)

    return measure


def compare(chosen: Options, ours: FedBackend, other: Server, texts: Sequence[str]) -> list[Row]:
    """A row for each size."""
    rows, length_s = [], 0.2 if chosen.short else 2.0
    for size in (1, 100) if chosen.short else SIZES:
        body = predict_body([texts[number % len(texts)] for number in range(size)], ours.config)
        measures = {
            "ours": tasks_per_second(ours.port, body, size, length_s),
            "bare": tasks_per_second(other.port, body, size, length_s),
        }
        found = alternate(chosen.rounds, **measures)
        what = f"/predict, {size:,} task{'s' if size > 1 else ''} a request, beside bare Flask"
        rows.append(compared(what, found["ours"], found["bare"], "tasks/s", at_least=0.7))
    return rows


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS)
    report("Predictions of the text classifier on BANKING77", measured(chosen), chosen)


def measured(chosen: Options) -> list[Row]:
    """Train one version, then compare."""
    questions = Questions.read(intents=5 if chosen.short else None)
    size = 50 if chosen.short else 1_000
    texts = [text for text, _ in questions.test]
    rows: list[Row] = []
    with ExitStack() as stack:
        where = stack.enter_context(folder())
        ours = stack.enter_context(FedBackend(where, questions.labels, size))
        ours.feed(questions.train[:size])
        ours.wait_for_version()
        ours.predict(texts[:10])
        if chosen.wants("bare"):
            (where / "config.xml").write_text(ours.config)
            told = {"BARE_VERSION": str(ours.version_folder), "BARE_CONFIG": str(where / "config.xml")}
            with bare(where, "benchmarks.bare:app", told) as other:
                rows += compare(chosen, ours, other, texts)
        if chosen.wants("peer"):
            for own_server, how in ((False, "under our gunicorn"), (True, "as its own command runs it")):
                with Peer(where, questions.train[:size], ours.config, own_server=own_server) as peer:
                    body = predict_body(texts[:1], ours.config)
                    length_s = 0.2 if chosen.short else 2.0
                    measures = {
                        "ours": tasks_per_second(ours.port, body, 1, length_s),
                        "peer": tasks_per_second(peer.port, body, 1, length_s),
                    }
                    found = alternate(chosen.rounds, **measures)
                    what = f"/predict, 1 task a request, beside label-studio-ml 1.0.9 {how}"
                    rows.append(compared(what, found["ours"], found["peer"], "tasks/s", at_least=4))
    return rows


if __name__ == "__main__":
    main()
