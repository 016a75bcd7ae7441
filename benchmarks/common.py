"""What every benchmark shares: options, alternating rounds, medians and ratios, the table, processes to measure."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.processes import cpu_seconds
from ml_backend.embedded import PrivateValkey
from tests.running import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
USER, PASSWORD = "label-studio", "a-password-for-benchmarks"


@dataclass(frozen=True)
class Options:
    """``short`` shows that a benchmark works and tells nothing of how fast anything is."""

    rounds: int
    short: bool
    as_json: bool
    only: frozenset[str] = frozenset()
    folder: Path | None = None
    prepare: bool = False

    def wants(self, part: str) -> bool:
        return not self.only or part in self.only


@dataclass(frozen=True)
class Row:
    """One line of the table: our figure, the peer's, their ratio (median over rounds of ours / peer) and the goal."""

    what: str
    ours: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


def options(description: str | None, *, parts: Sequence[str] = (), rounds: int = 5, folders: bool = False) -> Options:
    """Read a benchmark's command line; ``folders``: what it fills at first may be kept."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--short", action="store_true", help="a smoke test: that it works, not how fast")
    parser.add_argument("--rounds", type=int, default=rounds, help="alternating rounds (default: %(default)s)")
    if parts:
        parser.add_argument("--only", choices=parts, action="append", default=[], help="this part; may be repeated")
    if folders:
        parser.add_argument("--folder", type=Path, help="keep what has to be filled at first in this folder")
        parser.add_argument("--prepare", action="store_true", help="fill the folder and measure nothing")
    given = parser.parse_args()
    if folders and given.prepare and given.folder is None:
        parser.error("--prepare needs --folder")
    return Options(
        1 if given.short else given.rounds,
        given.short,
        given.json,
        frozenset(getattr(given, "only", [])),
        getattr(given, "folder", None),
        getattr(given, "prepare", False),
    )


def alternate(rounds: int, **measures: Callable[[], float]) -> dict[str, list[float]]:
    """Run the measures one after the other, ``rounds`` times; every second round backwards, so that drift evens out."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        names = list(measures)
        for name in reversed(names) if number % 2 else names:
            found[name].append(measures[name]())
    return found


def compared(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row with the median of the rounds' ratios, against a goal for that ratio."""
    ratio = statistics.median(one / other for one, other in zip(ours, peer, strict=True))
    goal, met = _against(ratio, at_least, at_most)
    return Row(what, statistics.median(ours), unit, statistics.median(peer), ratio, goal, met, note)


def single(
    what: str,
    ours: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row with the median of the rounds, against a goal for that figure itself."""
    value = statistics.median(ours)
    goal, met = _against(value, at_least, at_most)
    return Row(what, value, unit, goal=f"{goal} {unit}" if goal else "", met=met, note=note)


def _against(value: float, at_least: float | None, at_most: float | None) -> tuple[str, bool | None]:
    if at_least is not None:
        return f">= {at_least:g}", value >= at_least
    if at_most is not None:
        return f"<= {at_most:g}", value <= at_most
    return "", None


def report(title: str, rows: Sequence[Row], chosen: Options) -> None:
    """Print the rows, as a table or as JSON."""
    if chosen.as_json:
        print(json.dumps({"title": title, "load": os.getloadavg()[0], "rows": [asdict(row) for row in rows]}))
        return
    peers, notes = any(row.peer is not None for row in rows), any(row.note for row in rows)
    table = Table(title=f"{title} (load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    table.add_column("what")
    table.add_column("ours", justify="right")
    if peers:
        table.add_column("peer", justify="right")
        table.add_column("ours / peer", justify="right")
    table.add_column("unit")
    table.add_column("goal")
    if notes:
        table.add_column("note")
    for row in rows:
        cells = [row.what, _number(row.ours)]
        if peers:
            cells += [_number(row.peer), _number(row.ratio)]
        verdict = {True: " [green]met[/]", False: " [red]missed[/]", None: ""}[row.met]
        cells += [row.unit, row.goal + verdict]
        table.add_row(*cells, *([row.note] if notes else []))
    Console(width=max(120, Console().width)).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# --- processes --------------------------------------------------------------------------------------------------------


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours that may stand in it."""
    ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH", "MODEL_DIR", "WORKERS", "THREADS", "PORT")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **more}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder with a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="mlb-") as name:
        yield Path(name)


@contextlib.contextmanager
def valkey(where: Path, fsync: str = "always") -> Iterator[tuple[PrivateValkey, int]]:
    """The product's private Valkey, started and stopped; and its process id."""
    with PrivateValkey(where, fsync="always" if fsync == "always" else "everysec") as server:
        process = server.start()
        try:
            server.wait_ready(10)
            yield server, process.pid
        finally:
            process.terminate()
            process.wait(20)


class Server:
    """A process that listens on a port of this machine; its output goes to a file."""

    def __init__(
        self, argv: Sequence[str], port: int, log: Path, more: Mapping[str, str], path: str = "/health"
    ) -> None:
        self.port = port
        self.with_it: list[int] = []
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, stdout=out, stderr=subprocess.STDOUT, env=environment(more), cwd=ROOT, start_new_session=True
            )
        try:
            wait_until(lambda: self._answers(path), 90, f"{argv[0]} answers on {port}", every_s=0.02)
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self) -> float:
        """What this server has used so far, what it was told to count with it included."""
        return cpu_seconds(self.process.pid, *self.with_it)

    def _answers(self, path: str) -> bool:
        from benchmarks.load import ask

        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}: {self._log.read_text()[-2000:]}")
        try:
            return ask(self.port, "GET", path)[0] < 500
        except OSError:
            return False

    def stop(self) -> None:
        """SIGTERM; SIGKILL to its whole session after 20 s."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(where: Path, redis_url: str, *, model: str | None = None, more: Mapping[str, str] | None = None) -> Server:
    """``ml-backend serve``: the web server as it stands in production, with a password."""
    port = free_port()
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", "serve", *([model] if model else [])]
    told = {
        "PORT": str(port),
        "REDIS_URL": redis_url,
        "ML_BACKEND_DATA_DIR": str(where / "data"),
        "BASIC_AUTH_USER": USER,
        "BASIC_AUTH_PASS": PASSWORD,
        "PYTHONPATH": str(ROOT),
        **(more or {}),
    }
    return Server(argv, port, where / "serve.log", told)


def bare(where: Path, app: str, more: Mapping[str, str] | None = None) -> Server:
    """A bare Flask application of `benchmarks.bare`, under the settings that our gunicorn has."""
    port = free_port()
    argv = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "2", "--threads", "8"]
    argv += ["--keep-alive", "75", "--backlog", "1024", "--worker-connections", "400", "--timeout", "120"]
    argv += ["--no-sendfile", "--log-level", "warning", "--no-control-socket", "--bind", f"127.0.0.1:{port}", app]
    return Server(argv, port, where / "bare.log", {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(more or {})})


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
