"""The process tree: real processes, real signals, and nothing left behind."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_backend import lifeline
from ml_backend.supervisor import ProcessSpec, Supervisor

CHILD = """
import os, pathlib, signal, subprocess, sys, time
name, *manners = sys.argv[1:]
def tell(what):
    with open("events", "a") as events:
        events.write(f"{name} {what} {os.getpid()}\\n")
def stop(signum, frame):
    tell("stopping")
    if "stubborn" not in manners:
        tell("stopped")
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
if "parent" in manners:
    subprocess.Popen([sys.executable, __file__, name + "-child", *[m for m in manners if m != "parent"]],
                     start_new_session="stray" in manners)
tell("started")
pathlib.Path(name + ".ready").touch()
while True:
    time.sleep(60)
"""

PROGRAM = """
import logging, pathlib, signal, sys
from ml_backend.supervisor import HOPELESS, ProcessSpec, Supervisor
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
def child(*manners): return [sys.executable, "child.py", *manners]
def seen(name): return pathlib.Path(name + ".ready").exists
specs = [{specs}]
sys.exit(Supervisor(specs, logging.getLogger(), on_ready=lambda: print("ALL READY", file=sys.stderr)).run())
"""


@dataclass
class Tree:
    """A supervisor in its own process, and what its children wrote down."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def events(self) -> list[tuple[str, str, int]]:
        try:
            lines = (self.folder / "events").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(name, what, int(pid)) for name, what, pid in map(str.split, lines)]

    def pids(self, name: str) -> list[int]:
        return [pid for who, what, pid in self.events if who == name and what == "started"]

    def pid(self, name: str, nth: int = 0) -> int:
        until(lambda: len(self.pids(name)) > nth, f"{name} to start; log: {self.log}")
        return self.pids(name)[nth]

    def end(self, sig: signal.Signals, deadline_s: float = 10) -> int:
        self.process.send_signal(sig)
        return self.process.wait(deadline_s)

    def survivors(self) -> list[tuple[str, int]]:
        return [(name, pid) for name, what, pid in self.events if what == "started" and alive(pid)]


def until(condition: Callable[[], object], what: str, deadline_s: float = 10) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if sys.platform == "linux":
        try:
            return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False
    return not subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False
    ).stdout.startswith((b"", b"Z"))


def finish(process: "subprocess.Popen[bytes]") -> None:
    """Let the supervisor end its tree, at once if it does not do so by itself; only that reaches grandchildren too."""
    for patience_s in (0.5, 5):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    process.kill()
    process.wait()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Callable[[str], Tree]]:
    (tmp_path / "child.py").write_text(CHILD)
    started: list[Tree] = []

    def start(specs: str) -> Tree:
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(specs=specs)],
                cwd=tmp_path,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
        started.append(Tree(process, tmp_path))
        return started[-1]

    yield start
    for one in started:
        finish(one.process)


def test_children_start_in_order_and_stop_in_reverse_order(tree: Callable[[str], Tree]) -> None:
    running = tree(
        """ProcessSpec(name="store", argv=child("store"), ready=seen("store")),
        ProcessSpec(name="web", argv=child("web"), after=("store",), ready=seen("web")),
        ProcessSpec(name="clock", argv=child("clock"), after=("web",))"""
    )
    until(lambda: "ALL READY" in running.log, "the tree to be ready")
    running.pid("clock")
    assert running.end(signal.SIGTERM) == 0
    assert [event[:2] for event in running.events if event[1] != "stopping"] == [
        ("store", "started"),
        ("web", "started"),
        ("clock", "started"),
        ("clock", "stopped"),
        ("web", "stopped"),
        ("store", "stopped"),
    ]
    assert running.survivors() == []


def test_a_child_waits_until_what_it_needs_is_ready(tree: Callable[[str], Tree]) -> None:
    running = tree(
        """ProcessSpec(name="store", argv=child("store"), ready=seen("permission")),
        ProcessSpec(name="web", argv=child("web"), after=("store",)),
        ProcessSpec(name="other", argv=child("other"))"""
    )
    running.pid("store")
    running.pid("other")
    assert running.pids("web") == []
    (running.folder / "permission.ready").touch()
    running.pid("web")


def test_a_killed_child_is_started_again_and_the_log_says_why(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker"))')
    os.kill(running.pid("worker"), signal.SIGKILL)
    assert running.pid("worker", 1) != running.pid("worker")
    assert "worker ended: killed by SIGKILL; starting it again in 0.1 s" in running.log


def test_restarts_come_at_growing_intervals(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=["false"], essential=False)')
    for delay in ("0.1", "0.2", "0.4", "0.8"):
        until(lambda delay=delay: f"again in {delay} s" in running.log, f"the delay of {delay} s")
    assert running.process.poll() is None


def test_what_a_killed_child_left_behind_is_ended_before_it_starts_again(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "parent", "stubborn"))')
    horse = running.pid("worker-child")
    os.kill(running.pid("worker"), signal.SIGKILL)
    running.pid("worker", 1)
    assert not alive(horse)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the supervisor")
def test_an_orphan_in_a_session_of_its_own_is_ended_too(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "parent", "stray", "stubborn"))')
    horse = running.pid("worker-child")
    os.kill(running.pid("worker"), signal.SIGKILL)
    until(lambda: not alive(horse), "the orphan to end")


def test_grandchildren_do_not_outlive_a_stop(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "parent", "stray"))')
    running.pid("worker-child")
    assert running.end(signal.SIGTERM) == 0
    assert running.survivors() == []


def test_a_child_that_ignores_the_stop_signal_is_killed_after_its_grace(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "stubborn"), grace_s=0.4)')
    running.pid("worker")
    begun = time.monotonic()
    assert running.end(signal.SIGTERM) == 0
    assert 0.4 <= time.monotonic() - begun < 3
    assert "killing worker: still there 0.4 s after SIGTERM" in running.log
    assert running.survivors() == []


def test_a_second_signal_kills_at_once(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "stubborn"), grace_s=60)')
    running.pid("worker")
    running.process.send_signal(signal.SIGINT)
    until(lambda: ("worker", "stopping") in [event[:2] for event in running.events], "the worker to be asked")
    time.sleep(0.4)  # two copies of one request within 0.3 s are one request
    assert running.end(signal.SIGINT, 3) == 0
    assert running.survivors() == []


def test_ctrl_c_reaches_the_supervisor_only(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "parent"))')
    pids = [running.pid("worker"), running.pid("worker-child")]
    assert os.getpgid(running.process.pid) not in {os.getpgid(pid) for pid in pids}
    assert running.end(signal.SIGINT) == 0


def test_a_stop_signal_of_its_own_is_used(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker"), stop_signal=signal.SIGINT)')
    running.pid("worker")
    assert running.end(signal.SIGTERM) == 0
    assert ("worker", "stopping") not in [event[:2] for event in running.events]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS looks every half second, through a guardian")
def test_a_killed_supervisor_takes_its_children_along(tree: Callable[[str], Tree]) -> None:
    running = tree(
        """ProcessSpec(name="worker", argv=child("worker", "stubborn")),
        ProcessSpec(name="store", argv=child("store"), death_signal=signal.SIGTERM)"""
    )
    running.pid("worker"), running.pid("store")
    running.end(signal.SIGKILL)
    until(lambda: not running.survivors(), "the children to end", 2)
    assert ("store", "stopped") in [event[:2] for event in running.events]


@pytest.mark.parametrize("trouble", ["/does/not/exist", "false"])
def test_an_essential_child_that_never_comes_up_ends_the_tree_and_is_named(
    tree: Callable[[str], Tree], trouble: str
) -> None:
    running = tree(
        f"""ProcessSpec(name="store", argv=child("store")),
        ProcessSpec(name="web", argv=["{trouble}"], after=("store",))"""
    )
    assert running.process.wait(10) == 1
    assert "web never became ready" in running.log
    assert "(5 times in a row); stopping everything" in running.log
    assert trouble in running.log or "exit status 1" in running.log
    assert running.survivors() == []


def test_a_child_that_says_it_is_hopeless_is_not_tried_again(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="web", argv=["sh", "-c", "exit 78"])')
    assert running.process.wait(5) == 1
    assert "web never became ready; ended: exit status 78; stopping everything" in running.log


def test_a_child_that_is_not_ready_in_time_counts_as_failed(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="web", argv=child("web"), ready=seen("nothing"), ready_within_s=0.2)')
    until(lambda: "killing web: not ready after 0.2 s" in running.log, "the verdict")
    until(lambda: "web ended: killed by SIGKILL; starting it again" in running.log, "the restart")


def test_a_step_done_once_must_succeed_before_what_needs_it_starts(tree: Callable[[str], Tree]) -> None:
    running = tree(
        """ProcessSpec(name="step", argv=["sh", "-c", "sleep 0.2; touch done"], restart=False),
        ProcessSpec(name="web", argv=child("web"), after=("step",))"""
    )
    running.pid("web")
    assert (running.folder / "done").exists()
    assert running.end(signal.SIGTERM) == 0


def test_the_environment_is_handed_on_and_stays_out_of_the_log_and_the_command_line(
    tree: Callable[[str], Tree],
) -> None:
    running = tree(
        """ProcessSpec(name="web", argv=["sh", "-c", "echo $SECRET > seen; exec sleep 60"], env={"SECRET": "hush"})"""
    )
    until(lambda: (running.folder / "seen").exists() and (running.folder / "seen").read_text(), "the child")
    assert (running.folder / "seen").read_text() == "hush\n"
    assert running.end(signal.SIGTERM) == 0
    assert "hush" not in running.log
    assert "hush" not in repr(ProcessSpec(name="web", argv=["x"], env={"SECRET": "hush"}))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_no_zombie_is_left_while_children_come_and_go(tree: Callable[[str], Tree]) -> None:
    running = tree('ProcessSpec(name="worker", argv=child("worker", "parent", "stray"))')
    for nth in range(3):
        os.kill(running.pid("worker", nth), signal.SIGKILL)
    running.pid("worker", 3)
    pid = running.process.pid
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: all(alive(int(child)) for child in listing.read_text().split()), "zombies to be waited for", 3)


def test_a_child_that_failed_is_explained(tree: Callable[[str], Tree]) -> None:
    running = tree("""ProcessSpec(name="web", argv=["false"], explain=lambda: "the disk is full")""")
    until(lambda: "web ended: exit status 1 (the disk is full); starting it again in 0.1 s" in running.log, "the log")


def test_specs_that_wait_for_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="web"):
        Supervisor([ProcessSpec(name="web", argv=["x"], after=("store",))], logging.getLogger())


WHOLE = """
import logging, pathlib, signal, sys, urllib.request
from ml_backend.embedded import PrivateValkey
from ml_backend.supervisor import ProcessSpec, Supervisor
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
port = int(sys.argv[1])
web = f'''
import os
from ml_backend.web.server import serve
def make_app():
    with open("events", "a") as events: events.write("web started " + str(os.getpid()) + chr(10))
    def app(environ, start):
        start("200 OK", [("Content-Length", "0")])
        return [b""]
    return app
serve(make_app, bind="127.0.0.1:{port}", workers=2, threads=2)
'''
def healthy():
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200
    except OSError:
        return False
with PrivateValkey(pathlib.Path("data")) as valkey:
    specs = [
        ProcessSpec(name="store", argv=valkey.argv(), ready=valkey.is_ready, explain=valkey.last_words,
                    pass_fds=(valkey.lock(),), umask=valkey.umask, death_signal=signal.SIGTERM),
        ProcessSpec(name="web", argv=[sys.executable, "-c", web], after=("store",), ready=healthy, grace_s=15,
                    death_signal=signal.SIGTERM),
    ]
    status = Supervisor(specs, logging.getLogger(), on_ready=lambda: print("ALL READY", file=sys.stderr)).run()
sys.exit(status)
"""


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Tree]:
    """A private Valkey and two web processes under one supervisor."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WHOLE, str(port)],
            cwd=tmp_path,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
    running = Tree(process, tmp_path)
    until(lambda: "ALL READY" in running.log, "the tree to be ready", 20)
    yield running
    finish(process)


def started(running: Tree, name: str) -> list[int]:
    return [int(pid) for pid in re.findall(rf"^{name} started as process (\d+)$", running.log, re.MULTILINE)]


def test_the_real_tree_comes_back_after_every_kill_and_stops_cleanly(whole: Tree) -> None:
    for name in ("store", "web"):
        os.kill(started(whole, name)[-1], signal.SIGKILL)
        until(lambda name=name: whole.log.count(f"{name} is ready") == 2, f"{name} to be back", 20)
    assert whole.end(signal.SIGTERM, 20) == 0
    everybody = [*started(whole, "store"), *started(whole, "web"), *whole.pids("web")]
    assert len(everybody) >= 2 + 2 + 3  # of the last two web processes, one is enough to be ready
    assert not any(alive(pid) for pid in everybody)
    assert "Traceback" not in whole.log


@pytest.mark.skipif(sys.platform != "linux", reason="macOS looks every half second, through guardians")
def test_of_the_real_tree_nothing_outlives_a_killed_supervisor(whole: Tree) -> None:
    everybody = [*started(whole, "store"), *started(whole, "web"), *whole.pids("web")]
    whole.end(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in everybody), "all to end", 5)


GUARDED_PARENT = """
import pathlib, subprocess, sys, time
from ml_backend import lifeline
guardian = subprocess.Popen(lifeline.guarded([sys.executable, "child.py", "program"]))
sys.exit(guardian.wait())
"""


def test_a_guardian_ends_its_program_when_its_own_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    parent = subprocess.Popen(
        [sys.executable, "-c", GUARDED_PARENT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    running = Tree(parent, tmp_path)
    program = running.pid("program")
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not alive(program), "the program to end", 3)


def test_a_guardian_hands_on_signals_and_the_exit_status() -> None:
    script = "trap 'exit 7' TERM; echo on; while true; do sleep 0.05; done"
    with subprocess.Popen(lifeline.guarded(["sh", "-c", script]), stdout=subprocess.PIPE) as guardian:
        assert guardian.stdout is not None
        assert guardian.stdout.readline() == b"on\n"
        guardian.terminate()
        assert guardian.wait(5) == 7


def test_a_forked_process_dies_with_its_parent(tmp_path: Path) -> None:
    source = """
import os, sys, time
from ml_backend.lifeline import die_with_parent
parent = os.getpid()
if os.fork() == 0:
    die_with_parent(parent=parent)
    with open("events", "a") as events: events.write(f"forked started {os.getpid()}\\n")
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    running = Tree(parent, tmp_path)
    forked = running.pid("forked")
    running.end(signal.SIGKILL)
    until(lambda: not alive(forked), "the forked process to end", 3)
