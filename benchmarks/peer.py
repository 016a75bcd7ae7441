"""label-studio-ml 1.0.9 in an environment of its own, with the pins it was published with, without and with RQ.

Usage: python -m benchmarks.peer [--json] [--short] [--rounds N]
It measures the webhook: 1.0.9 starts a process for each event, or puts each into an RQ queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Options, Row, Server, alternate, compared, environment, folder, options, report
from benchmarks.http import Loaded, created, recorded, servers
from benchmarks.load import Request, ask, numbered
from ml_backend.embedded import find_server
from tests.running import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What its own template for a project asks for beside the package.
PACKAGES = ("label-studio-ml==1.0.9", "gunicorn==20.1.0", "rq==1.10.1", "setuptools<80")
MODEL = Path(__file__).with_name("peer_model.py")


def interpreter() -> Path:
    """The peer's Python; its environment is made at the first call and kept in the folder for temporary files.

    scikit-learn is the one of this environment, so that both sides calculate with the same.
    """
    home = Path(tempfile.gettempdir()) / f"label-studio-ml-1.0.9-{os.getuid()}"
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        uv = _uv()
        same = {f"{name}=={_version(name)}" for name in ("scikit-learn", "numpy", "scipy")}
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
        wanted = [*PACKAGES, *sorted(same)]
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), *wanted], check=True, cwd=home)
        done.touch()
    return python


def _uv() -> list[str]:
    found = shutil.which("uv")
    return [found] if found else [sys.executable, "-m", "uv"]


def _version(name: str) -> str:
    from importlib import metadata

    return metadata.version(name)


class Peer(Server):
    """1.0.9 under gunicorn with 2 processes of 8 threads, as ours; with ``redis_port`` in its RQ mode.

    Its model is trained on ``rows``; with none it can handle events only. ``own_server``: as its own command
    ``label-studio-ml start`` runs it, on Flask's development server.
    """

    def __init__(
        self,
        where: Path,
        rows: Sequence[tuple[str, str]],
        config: str,
        redis_port: int | None = None,
        *,
        own_server: bool = False,
    ) -> None:
        python, home = interpreter(), Path(tempfile.mkdtemp(prefix="peer-", dir=where))
        (home / "rows.json").write_text(json.dumps(list(rows)))
        # A copy: beside the original lies a module called http.
        model = Path(shutil.copy(MODEL, home))
        (home / "models").mkdir()
        if rows:
            subprocess.run([str(python), str(model), str(home)], check=True, env=environment({}))
        told = {"PEER_FOLDER": str(home), "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
        if redis_port is not None:
            told |= {"USE_REDIS": "true", "PEER_REDIS_PORT": str(redis_port)}
        port = free_port()
        argv = [str(python), "-W", "ignore", "-m", "gunicorn", "--workers", "2", "--threads", "8", "--timeout", "120"]
        argv += ["--keep-alive", "75", "--bind", f"127.0.0.1:{port}", "--log-level", "critical", "peer_model:app"]
        if own_server:
            argv = [str(python), "-W", "ignore", "-c", f"from peer_model import app; app.run('127.0.0.1', {port})"]
        super().__init__(argv, port, home / "peer.log", told)
        try:
            # Each of its processes has to be told of the project before it predicts.
            body = {"project": "2.1795333883", "schema": config, "hostname": "", "access_token": ""}
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda _: ask(port, "POST", "/setup", body)[0], range(64)))
            assert set(answers) == {200}, answers
        except BaseException:
            self.stop()
            raise


@contextlib.contextmanager
def redis_on_port(where: Path) -> Iterator[int]:
    """A Valkey on a TCP port of this machine, in its default mode: 1.0.9 knows no sockets."""
    port = free_port()
    argv = [str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(where)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), 10, "Valkey listens")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measured(chosen: Options) -> list[Row]:
    """The webhook beside ours."""
    rows, length = [], 0.2 if chosen.short else 2.0
    config = recorded("02-post-setup")["schema"]
    event = Request("POST", "/webhook", numbered(recorded("08-annotation-created")))
    with servers(fsyncs=("always",)) as running, folder() as where:
        ours = Loaded(running["always"], created(new=False), length)
        with Peer(where, [], config) as peer:
            found = alternate(chosen.rounds, ours=ours, peer=Loaded(peer, event, length))
            note = "a process for each event"
            rows.append(
                compared("webhook beside label-studio-ml 1.0.9", found["ours"], found["peer"], "requests/s", note=note)
            )
        with redis_on_port(where) as port, Peer(where, [], config, port) as peer:
            found = alternate(chosen.rounds, ours=ours, peer=Loaded(peer, event, length))
            note = "drops what comes while a job waits; nothing is on the disk"
            what = "webhook beside label-studio-ml 1.0.9 with RQ"
            rows.append(compared(what, found["ours"], found["peer"], "requests/s", note=note))
    return rows


def main() -> None:
    """The command."""
    chosen = options(__doc__, rounds=3)
    report("The webhook beside label-studio-ml 1.0.9", measured(chosen), chosen)


if __name__ == "__main__":
    main()
