"""The gunicorn runner: web processes that are replaced, stop cleanly, and cannot be held up by slow clients."""

import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_backend.errors import SettingsError
from ml_backend.supervisor import HOPELESS
from ml_backend.web import client_socket
from ml_backend.web.server import listen

PROGRAM = """
import hashlib, os, pathlib, resource, sys, threading, time
from ml_backend.web import client_socket, server
if {descriptors}:
    resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
if {connections}:
    server._CONNECTIONS = {connections}
if {impatient}:
    client_socket.PATIENCE_S, client_socket._SLOWEST, server._RELEASE_S = 0.3, 10**9, 0.1
together = threading.Barrier(2)
def make_app():
    made_in = os.getpid()
    def app(environ, start_response):
        path, answer = environ["PATH_INFO"], b""
        if path == "/pid":
            answer = f"{{made_in}} {{os.getpid()}} {{os.getppid()}}".encode()
        elif path == "/hash":
            answer = hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
        elif path == "/sleep":
            pathlib.Path("asleep").touch()
            time.sleep(0.5)
        elif path == "/meet":
            together.wait(10)
        elif path == "/large":
            answer = b"x" * 20_000_000
        elif path == "/predict":
            answer = b"x" * 14_000
        elif "HTTP_X_BREAK" in environ:
            raise RuntimeError("broken")
        elif path == "/refuse":
            start_response("413 Content Too Large", [("Content-Length", "0")])
            return [b""]
        else:
            answer = environ.get("SCRIPT_NAME", "").encode() + path.encode()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    return app
server.serve(make_app, bind={bind!r}, workers={workers}, threads=2, graceful_timeout_s=20)
"""


@dataclass
class Web:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    address: str | tuple[str, int]
    home: Path

    def connect(self) -> socket.socket:
        if isinstance(self.address, str):
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(self.address)
            except OSError:
                client.close()
                raise
        else:
            client = socket.create_connection(self.address)
        client.settimeout(15)
        return client

    def connect_narrowly(self) -> socket.socket:
        """Little fits into the buffers between this client and the server."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        client.settimeout(15)
        client.connect(self.address)
        return client

    def say(self, raw: bytes) -> socket.socket:
        client = self.connect()
        client.sendall(raw)
        return client

    def ask(self, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("localhost", timeout=15)
        connection.sock = self.connect()
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def pids(self) -> tuple[int, int, int]:
        """Where the application was made, where it runs, and the process above."""
        made, runs, above = self.ask("/pid")[1].split()
        return int(made), int(runs), int(above)

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()


def until(condition: Callable[[], object], what: str, deadline_s: float = 10) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)


def answers(web: Web) -> bool:
    try:
        return web.ask("/")[0] == 200
    except OSError:
        return False


def gone(pid: int) -> bool:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state == "" or state.startswith("Z")


def receive(client: socket.socket, body: int) -> bytes:
    """One answer with a body of so many bytes."""
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < body:
        data = client.recv(10_000)
        assert data, received
        received += data
    return received


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def launcher(stack: ExitStack, folder: Path) -> Callable[..., Web]:
    def start(
        bind: str | None = None,
        *,
        workers: int = 1,
        impatient: bool = False,
        descriptors: int = 0,
        connections: int = 0,
        wait: bool = True,
    ) -> Web:
        bind = bind or f"127.0.0.1:{free_port()}"
        host, _, port = bind.rpartition(":")
        program = PROGRAM.format(
            bind=bind, workers=workers, impatient=impatient, descriptors=descriptors, connections=connections
        )
        log = stack.enter_context((folder / "log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=folder,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(folder)},
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        web = Web(process, port if host == "unix" else (host.strip("[]"), int(port)), folder)
        if wait:
            until(lambda: answers(web), "the server to answer")
        return web

    return start


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    """Starts servers that a test may spoil."""
    with ExitStack() as stack:
        yield launcher(stack, tmp_path)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One server for all tests that leave it as it was."""
    with ExitStack() as stack:
        web = launcher(stack, tmp_path_factory.mktemp("web"))()
        yield web
        assert web.log == ""


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A server that waits a third of a second where others wait twenty."""
    with ExitStack() as stack:
        web = launcher(stack, tmp_path_factory.mktemp("impatient"))(impatient=True)
        yield web
        assert "Traceback" not in web.log


def test_the_application_is_made_in_each_web_process_and_not_above(web: Web) -> None:
    made, runs, above = web.pids()
    assert made == runs
    assert above == web.process.pid


def test_a_killed_web_process_is_replaced(launch: Callable[..., Web]) -> None:
    web = launch()
    killed = web.pids()[1]
    os.kill(killed, signal.SIGKILL)
    until(lambda: answers(web) and web.pids()[1] != killed, "another web process")


def test_it_stops_cleanly_and_lets_a_request_finish(launch: Callable[..., Web]) -> None:
    web = launch(workers=2)
    answered: list[tuple[int, str]] = []
    request = threading.Thread(target=lambda: answered.append(web.ask("/sleep")))
    runs = web.pids()[1]
    request.start()
    until((web.home / "asleep").exists, "the request to be under way")
    web.process.terminate()
    assert web.process.wait(15) == 0
    request.join()
    assert answered == [(200, "")]
    assert gone(runs)


def test_a_client_that_only_connected_does_not_delay_the_stop(launch: Callable[..., Web]) -> None:
    web = launch()
    with web.connect():
        web.process.terminate()
        assert web.process.wait(10) == 0  # requests that were begun would have 20 s


def test_web_processes_die_with_the_one_above_them(launch: Callable[..., Web]) -> None:
    web = launch()
    runs = web.pids()[1]
    web.process.kill()
    until(lambda: gone(runs), "the web process to end")


def test_it_leaves_no_file_and_opens_nothing_but_its_address(web: Web) -> None:
    assert [path.name for path in web.home.iterdir()] == ["log"]
    if sys.platform == "linux":
        for pid in web.pids()[1:]:
            sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
            assert len([name for name in sockets if name.startswith("socket:")]) <= 2  # the listener and this request


@pytest.mark.parametrize(
    ("bind", "connect_to"), [("localhost:{port}", "127.0.0.1"), ("[::1]:{port}", "::1"), (":{port}", "127.0.0.1")]
)
def test_it_listens_on_names_and_on_ipv6(bind: str, connect_to: str) -> None:
    port = free_port()
    with ExitStack() as stack:
        for listener in listen(bind.format(port=port)):
            stack.enter_context(listener)
        socket.create_connection((connect_to, port), timeout=5).close()


def test_a_unix_socket_takes_the_place_of_an_abandoned_one_and_is_removed(
    launch: Callable[..., Web], tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    web = launch(f"unix:{path}")
    assert web.ask("/x") == (200, "/x")
    web.process.terminate()
    assert web.process.wait(15) == 0
    assert not path.exists()


def test_a_taken_address_ends_it_with_a_message_and_the_status_for_hopeless(launch: Callable[..., Web]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        web = launch(f"127.0.0.1:{taken.getsockname()[1]}", impatient=True, wait=False)
        assert web.process.wait(10) == HOPELESS
    assert re.search(r"cannot listen on 127\.0\.0\.1:\d+: Address already in use", web.log)


def test_an_address_that_is_about_to_be_free_is_waited_for() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    release = threading.Timer(0.2, taken.close)
    release.start()
    (listener,) = listen(f"127.0.0.1:{port}")
    listener.close()
    release.join()


@pytest.mark.parametrize("bind", ["9090", "host:port", "host:70000", "::1:9090", "host:"])
def test_an_address_of_another_form_is_refused(bind: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        listen(bind)


def test_a_header_cannot_rewrite_the_path(web: Web) -> None:
    assert web.ask("/x", SCRIPT_NAME="/evil", PATH_INFO="/evil") == (200, "/x")


@pytest.mark.parametrize(
    "beginning",
    [
        b"G",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST /hash HTTP/1.1\r\nContent-Length: 100000\r\n\r\nxxx",
        b"POST /hash HTTP/1.1\r\nContent-Length: 0000000000000000100\r\n\r\nxxx",
        b"POST /hash HTTP/1.1\r\nContent-Length: 250000\r\n\r\n" + b"x" * 200_000,
        b"POST /hash HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /refuse HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200_000,
    ],
    ids=[
        "one byte",
        "half a head",
        "half a body",
        "half a body whose length begins with zeros",
        "half a long body",
        "half a chunk",
        "never hangs up",
        "refused before its body has come",
    ],
)
def test_slow_clients_hold_up_nobody(web: Web, beginning: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(web.say(beginning))
        begun = time.monotonic()
        for _ in range(5):
            assert web.ask("/x", Connection="close") == (200, "/x")
        assert time.monotonic() - begun < 1


def test_answers_that_nobody_takes_hold_up_nobody(web: Web) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(web.connect_narrowly())
            client.sendall(EVENT.replace(b"/webhook", b"/predict") * 100)
        begun = time.monotonic()
        for _ in range(5):
            assert web.ask("/x", Connection="close") == (200, "/x")
        assert time.monotonic() - begun < 1


def test_an_answer_that_is_taken_late_arrives_whole(web: Web) -> None:
    with web.connect_narrowly() as client:
        client.sendall(EVENT.replace(b"/webhook", b"/predict") * 100 + EVENT.replace(b"/webhook", b"/last"))
        assert web.ask("/x") == (200, "/x")
        received = bytearray()
        while not received.endswith(b"/last"):
            data = client.recv(100_000)
            assert data, bytes(received[-1000:])
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 101
    assert received.count(b"x") == 1_400_000


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        b"G",
        b"POST /hash HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["asks for nothing more", "half a head", "half a chunk"],
)
def test_it_answers_when_slow_clients_have_taken_all_connections(launch: Callable[..., Web], beginning: bytes) -> None:
    web = launch(connections=20)
    with ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(web.say(beginning))
            if beginning.startswith(b"GET"):
                receive(client, 2)
        for _ in range(10):
            stack.enter_context(web.say(b"G"))
        begun = time.monotonic()
        for _ in range(5):
            assert web.ask("/x", Connection="close") == (200, "/x")
        assert time.monotonic() - begun < 2
    assert web.log == ""


def test_it_answers_when_slow_clients_have_taken_all_file_descriptors(launch: Callable[..., Web]) -> None:
    web = launch(descriptors=60)
    worker = web.pids()[1]
    with ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(web.say(b"G"))
        assert web.ask("/x") == (200, "/x")
    assert web.pids()[1] == worker, web.log
    # Once in ten seconds; the connections took much less, unless this machine is very busy.
    assert 1 <= web.log.count("cannot accept a connection: Too many open files") <= 5


def test_who_sends_half_a_request_is_told_so_and_disconnected(impatient: Web) -> None:
    with impatient.say(b"GET / HT") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
        assert client.recv(100) == b""


def test_who_sends_nothing_is_disconnected(impatient: Web) -> None:
    with impatient.connect() as client:
        assert client.recv(100) == b""


def test_a_head_without_end_is_refused(web: Web) -> None:
    with web.say(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_long_body_that_stops_coming_gives_its_thread_back(impatient: Web) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            request = b"POST /hash HTTP/1.1\r\nContent-Length: 250000\r\n\r\n" + b"x" * 200_000
            stack.enter_context(impatient.say(request))
        assert impatient.ask("/hash", b"")[0] == 200
        assert impatient.ask("/hash", b"x" * 300_000)[0] == 200


def test_an_answer_that_nobody_reads_gives_its_thread_back(impatient: Web) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(impatient.say(b"GET /large HTTP/1.1\r\n\r\n"))
        assert impatient.ask("/x") == (200, "/x")


@pytest.mark.parametrize("size", [0, 1, 1000, 131_072, 131_073, 5_000_000])
def test_bodies_of_every_size_arrive_whole(web: Web, size: int) -> None:
    body = os.urandom(size)
    assert web.ask("/hash", body) == (200, hashlib.sha256(body).hexdigest())


def test_a_body_in_small_pieces_or_of_untold_length_arrives_whole(web: Web) -> None:
    whole = hashlib.sha256(b"abc" * 50).hexdigest()
    assert web.ask("/hash", iter([b"abc"] * 50)) == (200, whole)  # chunked
    with web.connect() as client:
        for piece in [b"POST /hash HTTP/1.1\r\ncontent-length:150\r", b"\n\r", b"\n", *[b"abc"] * 50]:
            client.sendall(piece)
            time.sleep(0.001)
        assert receive(client, 64).endswith(whole.encode())


def test_a_client_that_waits_to_be_invited_is_invited(web: Web) -> None:
    with web.say(b"POST /hash HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        assert receive(client, 64).endswith(hashlib.sha256(b"abc").hexdigest().encode())


def test_requests_sent_in_one_go_are_answered_one_by_one(web: Web) -> None:
    post = b"POST /hash HTTP/1.1\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
    with web.say(b"GET /1 HTTP/1.1\r\n\r\n" + post + b"GET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n") as client:
        received = b""
        while b"/3" not in received:
            received += client.recv(10_000)
    assert received.count(b"HTTP/1.1 200 OK") == 4


EVENT = b"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def test_ordinary_events_and_other_requests_sent_in_one_go_are_answered_in_order(web: Web) -> None:
    chunked = b"POST /webhook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    post = b"POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    last = EVENT.replace(b"Host: a", b"Host: a\r\nConnection: close")
    with web.say(EVENT + post + EVENT + EVENT + chunked + EVENT + last) as client:
        received = b""
        while data := client.recv(10_000):
            received += data
    bodies = [one.partition("\r\n\r\n")[2] for one in received.decode().split("HTTP/1.1 200 OK\r\n")[1:]]
    event = "/webhook"
    assert bodies == [event, hashlib.sha256(b"{}").hexdigest(), event, event, event, event, event]


@pytest.mark.parametrize("length", [2, 200_000])
@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.01])
def test_a_next_request_that_follows_in_two_pieces_is_answered(web: Web, length: int, pause_s: float) -> None:
    body = os.urandom(length)
    following = b"POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + body
    with web.say(EVENT) as client:
        assert receive(client, 8).endswith(b"/webhook")
        for cut in (1, 40, len(following) - 1):
            client.sendall(following[:cut])
            time.sleep(pause_s)  # within the time that a thread stays, and beyond it
            client.sendall(following[cut:])
            assert receive(client, 64).endswith(hashlib.sha256(body).hexdigest().encode())


def test_clients_that_send_event_after_event_leave_room_for_others_and_for_the_stop(launch: Callable[..., Web]) -> None:
    web = launch()
    over = threading.Event()
    answered: list[bytes] = []

    def chatter() -> None:
        with web.connect() as client:
            while not over.is_set():
                try:
                    client.sendall(EVENT)
                    answer = client.recv(1000)
                except ConnectionError:
                    return
                if not answer:
                    return
                answered.append(answer)

    chatting = [threading.Thread(target=chatter) for _ in range(4)]  # it has two threads
    for one in chatting:
        one.start()
    try:
        until(lambda: len(answered) > 100, "some chatter")
        begun = time.monotonic()
        for _ in range(20):
            assert web.ask("/x") == (200, "/x")
        assert time.monotonic() - begun < 2
        web.process.terminate()
        assert web.process.wait(10) == 0
    finally:
        over.set()
        for one in chatting:
            one.join()
    assert {answer.partition(b"\r\n")[0] for answer in answered} == {b"HTTP/1.1 200 OK"}


def test_an_event_that_breaks_the_application_is_answered_and_costs_no_thread(launch: Callable[..., Web]) -> None:
    web = launch()
    for _ in range(3):
        with web.say(EVENT.replace(b"Host: a", b"Host: a\r\nX-Break: yes")) as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 500 ")
    with web.say(EVENT) as client:
        assert receive(client, 8).endswith(b"/webhook")
    assert web.log.count("RuntimeError: broken") == 3


def test_a_connection_serves_many_requests(web: Web) -> None:
    connection = http.client.HTTPConnection(*web.address, timeout=5)
    for number in range(20):
        connection.request("POST", "/hash", str(number))
        assert connection.getresponse().read().decode() == hashlib.sha256(str(number).encode()).hexdigest()
        if number == 0:
            first = connection.sock
    assert connection.sock is first
    connection.close()


def test_an_early_refusal_of_a_large_body_arrives(web: Web) -> None:
    assert web.ask("/refuse", b"x" * 30_000_000)[0] == 413


def test_it_serves_as_many_at_once_as_it_has_threads(web: Web) -> None:
    with ThreadPoolExecutor(2) as clients:
        assert list(clients.map(web.ask, ["/meet"] * 2)) == [(200, "")] * 2


def test_reading_ahead_limits_what_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with client_socket.ClientSocket(ours) as client, theirs:
        client.setblocking(False)
        theirs.setblocking(False)
        theirs.send(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
        kept = 0
        while client.read_ahead() is client_socket.Ahead.MORE:
            kept += theirs.send(b"x" * 50_000)
        assert kept < 300_000
