"""How the client of Label Studio's API behaves when the network, the address or the key is wrong."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socketserver
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ml_backend.errors import (
    LabelStudioError,
    LabelStudioRefused,
    LabelStudioUnreachable,
    SettingsError,
    WrongToken,
)
from ml_backend.label_studio import LabelStudioApi, StoredPrediction
from ml_backend.label_studio.transport import TooLarge, Transport
from tests.label_studio.server import free_port
from tests.loopback import Answer, Loopback, Received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PREDICTION = StoredPrediction(task=1, result=[], score=0.5, model_version="v1")
REFRESH = "/api/token/refresh/"


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


def personal_token() -> str:
    return jwt(token_type="refresh", exp=int(time.time()) + 3600)


def access_token(number: int = 0) -> str:
    return jwt(token_type="access", exp=int(time.time()) + 300, number=number)


def at_once(_seconds: float) -> None:
    """A pause that takes no time: what is tested is whether there is another attempt."""


def api(url: str, key: str = LEGACY, *, timeout_s: float = 5.0, patience_s: float = 5.0) -> LabelStudioApi:
    return LabelStudioApi(url, key, timeout_s=timeout_s, patience_s=patience_s, pause=at_once)


def project(**more: object) -> dict[str, object]:
    counters = (
        *("task_number", "finished_task_number", "total_predictions_number", "total_annotations_number"),
        *("num_tasks_with_annotations", "useful_annotation_number", "ground_truth_number"),
        "skipped_annotations_number",
    )
    return {"id": 1, "created_at": "2026-11-22T12:00:00.5Z", **dict.fromkeys(counters, 3), **more}


def one_after_another(*answers: Answer) -> Callable[[Received], Answer]:
    """The given answers in turn, the last one for ever."""
    number = count()
    return lambda _: answers[min(next(number), len(answers) - 1)]


# The key


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_stays(status: int) -> None:
    with Loopback(lambda _: Answer(project())) as elsewhere:
        moved = Answer(status=status, headers={"Location": f"{elsewhere.url}/api/projects/1/"})
        with Loopback(lambda _: moved) as server, api(server.url) as client:
            with pytest.raises(
                LabelStudioRefused, match=f"redirects .* to {elsewhere.url}.*set LABEL_STUDIO_URL"
            ) as seen:
                client.project(1)
            assert seen.value.status == status
            assert len(server.received) == 1
        assert elsewhere.received == []


@pytest.mark.parametrize("status", [302, 307, 308])
def test_the_token_exchange_is_not_redirected_either(status: int) -> None:
    """Its body is the key itself, which a client that follows a 307 would send on."""
    with Loopback(lambda _: Answer({"access": access_token()})) as elsewhere:
        moved = Answer(status=status, headers={"Location": f"{elsewhere.url}{REFRESH}"})
        with (
            Loopback(lambda _: moved) as server,
            api(server.url, personal_token()) as client,
            pytest.raises(LabelStudioRefused, match="never sent across a redirect"),
        ):
            client.project(1)
        assert elsewhere.received == []


def test_a_personal_token_is_exchanged_once_and_below_the_path_prefix() -> None:
    access = access_token()

    def answer(request: Received) -> Answer:
        return Answer({"access": access} if request.path.endswith(REFRESH) else project())

    key = personal_token()
    with Loopback(answer) as server, api(f"{server.url}/label/studio", key) as client:
        client.project(1)
        client.project(1)
    paths = [request.path.partition("?")[0] for request in server.received]
    assert paths == [f"/label/studio{REFRESH}", "/label/studio/api/projects/1/", "/label/studio/api/projects/1/"]
    assert server.received[0].json == {"refresh": key}
    assert server.received[1].headers["Authorization"] == f"Bearer {access}"


def test_an_access_token_that_ended_by_label_studios_clock_is_renewed_once() -> None:
    number = count()
    tokens = [access_token(0), access_token(1)]

    def answer(request: Received) -> Answer:
        if request.path == REFRESH:
            return Answer({"access": tokens[next(number)]})
        if request.headers["Authorization"] == f"Bearer {tokens[1]}":
            return Answer(project())
        return Answer({"detail": "Given token not valid for any token type"}, status=401)

    with Loopback(answer) as server, api(server.url, personal_token()) as client:
        assert client.project(1).project.id == 1


def test_a_legacy_token_is_sent_as_it_is() -> None:
    with Loopback(lambda _: Answer(project())) as server, api(server.url, f"  {LEGACY}\n") as client:
        client.project(1)
    assert [request.headers["Authorization"] for request in server.received] == [f"Token {LEGACY}"]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "is empty"),
        ("two words", "characters that no token has"),
        ("schlüssel", "characters that no token has"),
        (access_token(), "is an access token, which lives five minutes"),
        (personal_token().rpartition(".")[0], "without its last part"),
    ],
)
def test_a_key_that_cannot_work_is_refused_before_anything_is_sent(key: str, says: str) -> None:
    with pytest.raises(WrongToken, match=f"{says}.*Account & Settings > Personal Access Token"):
        LabelStudioApi("http://127.0.0.1:1", key)


def test_an_expired_personal_token_is_told_without_a_call() -> None:
    with Loopback(lambda _: Answer(project())) as server:
        expired = jwt(token_type="refresh", exp=int(time.time()) - 60)
        with api(server.url, expired) as client, pytest.raises(WrongToken, match="expired"):
            client.project(1)
        assert server.received == []


@pytest.mark.parametrize("url", ["", "label-studio:8080", "ftp://label-studio", "http://", "http://user:pw@host:8080"])
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_URL"):
        LabelStudioApi(url, LEGACY)


def test_a_401_of_something_before_label_studio_does_not_blame_the_key() -> None:
    with (
        Loopback(lambda _: Answer(b"<html>", status=401)) as server,
        api(server.url) as client,
        pytest.raises(LabelStudioRefused, match="401"),
    ):
        client.project(1)


# Attempts and limits


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_failure_that_may_pass_is_tried_again(status: int) -> None:
    answers = one_after_another(Answer(b"", status=status), Answer(b"", status=status), Answer(project()))
    with Loopback(answers) as server, api(server.url) as client:
        assert client.project(1).project.uid == "1.1795348800"
    assert len(server.received) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_a_refusal_is_not_tried_again_and_carries_label_studios_reason(status: int) -> None:
    body = {"detail": "Validation error", "validation_errors": {"title": ["too long"]}}
    with (
        Loopback(lambda _: Answer(body, status=status)) as server,
        api(server.url) as client,
        pytest.raises(LabelStudioRefused, match=r'Validation error: {"title":\["too long"\]}') as seen,
    ):
        client.project(1)
    assert seen.value.status == status
    assert len(server.received) == 1


def test_a_connection_that_breaks_is_tried_again() -> None:
    answers = one_after_another(Answer(hang_up=True), Answer(project()))
    with Loopback(answers) as server, api(server.url) as client:
        assert client.project(1).project.id == 1


def test_a_failing_token_exchange_is_tried_again() -> None:
    exchange = one_after_another(Answer(b"<html>", status=502), Answer({"access": access_token()}))

    def answer(request: Received) -> Answer:
        return exchange(request) if request.path == REFRESH else Answer(project())

    with Loopback(answer) as server, api(server.url, personal_token()) as client:
        assert client.project(1).project.id == 1


def test_a_server_that_comes_up_late_is_waited_for() -> None:
    port = free_port()
    with LabelStudioApi(f"http://127.0.0.1:{port}", LEGACY, patience_s=20.0) as client:
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(client.project(1).project.id))
        waiting.start()
        with Loopback(lambda _: Answer(project()), port=port):
            waiting.join(20.0)
        assert found == [1]


def test_patience_ends_with_the_last_error() -> None:
    with (
        Loopback(lambda _: Answer(b"", status=503)) as server,
        LabelStudioApi(server.url, LEGACY, patience_s=0.3) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(LabelStudioRefused, match="503"):
            client.project(1)
        assert time.monotonic() - begun < 5.0


def test_an_address_where_nobody_listens_is_unreachable() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with api(nobody, patience_s=0.0) as client, pytest.raises(LabelStudioUnreachable, match="cannot be reached"):
        client.project(1)


def test_a_silent_server_is_given_up_in_time() -> None:
    released = threading.Event()

    def silent(_: Received) -> Answer:
        released.wait(10.0)
        return Answer(project())

    with Loopback(silent) as server, api(server.url, timeout_s=0.2, patience_s=0.0) as client:
        begun = time.monotonic()
        with pytest.raises(LabelStudioUnreachable, match=r"within 0\.2 s"):
            client.project(1)
        assert time.monotonic() - begun < 2.0
        released.set()


@pytest.mark.parametrize("failure", [Answer(b"", status=500), Answer(hang_up=True)], ids=["500", "broken connection"])
def test_predictions_are_never_stored_twice(failure: Answer) -> None:
    with Loopback(lambda _: failure) as server, api(server.url) as client, pytest.raises(LabelStudioError):
        client.import_predictions(1, [PREDICTION])
    assert len(server.received) == 1


def test_predictions_that_were_refused_for_now_are_sent_again() -> None:
    answers = one_after_another(Answer(b"", status=429), Answer({"created": 1}, status=201))
    with Loopback(answers) as server, api(server.url) as client:
        assert client.import_predictions(1, [PREDICTION]) == 1


def test_a_pause_that_raises_ends_the_attempts() -> None:
    class StoppedError(Exception):
        pass

    def stop(_seconds: float) -> None:
        raise StoppedError

    with Loopback(lambda _: Answer(b"", status=503)) as server:
        with LabelStudioApi(server.url, LEGACY, pause=stop) as client, pytest.raises(StoppedError):
            client.project(1)
        assert len(server.received) == 1


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]", b'{"id": "x"}', b"null"])
def test_an_answer_that_makes_no_sense_is_an_error_of_ours(body: bytes) -> None:
    with Loopback(lambda _: Answer(body)) as server, api(server.url) as client, pytest.raises(LabelStudioError):
        client.project(1)


# Answers without end

LARGEST = 3_000_000


@pytest.fixture
def endless() -> Iterator[tuple[str, list[int]]]:
    """A server that never ends its answer; its URL, and how many bytes it got rid of for each request."""
    sent: list[int] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n[0")
            sent.append(0)
            with contextlib.suppress(OSError):
                while True:
                    sent[-1] += self.request.send(b",0" * 32768)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()
        thread.join()


def bounded(url: str, key: str = LEGACY) -> Transport:
    return Transport(url, key, timeout_s=5.0, patience_s=5.0, pause=at_once, largest=LARGEST)


@pytest.mark.parametrize("key", [LEGACY, personal_token()], ids=["the call", "the token exchange"])
def test_an_answer_without_end_is_given_up_at_the_limit_and_named(endless: tuple[str, list[int]], key: str) -> None:
    url, sent = endless
    with pytest.raises(TooLarge, match=rf"Label Studio at {url} answered /\S+ with more than 3,000,000 bytes"):
        bounded(url, key).json("GET", "/api/projects/1/")
    assert len(sent) == 1, "it would be no shorter the next time"
    assert sent[0] < LARGEST + 30_000_000, "what the system's buffers hold beside it"


def test_an_answer_that_unpacks_to_more_than_the_limit_is_never_held_in_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000), compresslevel=1)
    with Loopback(lambda _: Answer(bomb, headers={"Content-Encoding": "gzip"})) as server:
        transport = bounded(server.url)
        with pytest.raises(TooLarge):
            transport.json("GET", "/api/projects/1/")  # the first call brings the SDK
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge):
                transport.json("GET", "/api/projects/1/")
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_a_compressed_answer_is_read() -> None:
    packed = gzip.compress(json.dumps(project()).encode())
    with Loopback(lambda _: Answer(packed, headers={"Content-Encoding": "gzip"})) as server, api(server.url) as client:
        assert client.project(1).sampling == ""
        assert server.received[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
        ("br", b"x"),
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(b"{}" * 1000)[:-9]),
    ],
)
def test_compression_that_was_not_asked_for_or_is_broken_is_an_error_of_ours(encoding: str, body: bytes) -> None:
    with (
        Loopback(lambda _: Answer(body, headers={"Content-Encoding": encoding})) as server,
        api(server.url) as client,
        pytest.raises(LabelStudioError, match="/api/projects/1/ with what cannot be read"),
    ):
        client.project(1)


def test_an_empty_answer_may_say_that_it_is_compressed() -> None:
    with Loopback(lambda _: Answer(b"", headers={"Content-Encoding": "gzip"})) as server, api(server.url) as client:
        client.delete_prediction(1)


# Pages


def data_manager(tasks: int, *, largest_page: int = 10_000) -> Callable[[Received], Answer]:
    """Answers the Data Manager's list as Label Studio does, for tasks 1 to ``tasks``."""

    def answer(request: Received) -> Answer:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        after = json.loads(asked["query"])["filters"]["items"][-1]["value"]
        ids = range(after + 1, tasks + 1)
        page = [
            {"id": one, "data": {"text": "x" * 50}, "created_at": "2026-11-22T12:00:00Z", "annotations": []}
            for one in ids[: min(int(asked["page_size"]), largest_page)]
        ]
        return Answer({"total": len(ids), "tasks": page})

    return answer


def read_all(client: LabelStudioApi, *, after: int = 0) -> list[int]:
    return [task.task.id for page in client.labelled_tasks(1, after=after) for task in page]


def test_all_annotations_of_a_page_come_from_one_serializer() -> None:
    """Expanded, they take half of the time. By their plain names they come from a Label Studio that does not expand."""
    with Loopback(data_manager(0)) as server, api(server.url) as client:
        read_all(client)
        list(client.plain_tasks(1))
    labelled, plain = (parse_qs(urlsplit(request.path).query) for request in server.received)
    assert labelled["expand"] == ["annotations"]
    assert {"result", "annotations.result", "updated_by", "annotations.updated_by"} <= set(
        labelled["include"][0].split(",")
    )
    assert "expand" not in plain


def test_every_task_is_read_once_and_pages_grow() -> None:
    with Loopback(data_manager(2345)) as server, api(server.url) as client:
        assert read_all(client) == list(range(1, 2346))
    assert len(server.received) == 5


def test_a_task_that_comes_in_between_count_and_page_pushes_none_out() -> None:
    """Label Studio counts, and reads as many tasks as it counted: with one more among them the last one is missing."""
    answering = data_manager(5)

    def labelled_meanwhile(request: Received) -> Answer:
        made = answering(request)
        if len(server.received) == 1:
            made.body["tasks"].pop()
            made.body["total"] = 4
        return made

    with Loopback(labelled_meanwhile) as server, api(server.url) as client:
        assert read_all(client) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("answer", [{"tasks": []}, {"tasks": [], "total": "0"}, [], {"total": 3}])
def test_a_list_without_its_total_is_an_error_and_no_end(answer: Any) -> None:
    with Loopback(lambda _: Answer(answer)) as server, api(server.url) as client, pytest.raises(LabelStudioError):
        read_all(client)


def test_reading_goes_on_after_a_given_task() -> None:
    with Loopback(data_manager(250)) as server, api(server.url) as client:
        assert read_all(client, after=200) == list(range(201, 251))


def test_a_server_that_limits_its_pages_is_read_to_the_end() -> None:
    with Loopback(data_manager(95, largest_page=30)) as server, api(server.url) as client:
        assert read_all(client) == list(range(1, 96))


def test_a_page_that_takes_too_long_is_asked_for_in_parts() -> None:
    answering = data_manager(60)
    released = threading.Event()

    def slow_when_large(request: Received) -> Answer:
        if "page_size=100" in request.path:
            released.wait(10.0)
        return answering(request)

    with Loopback(slow_when_large) as server, api(server.url, timeout_s=0.3) as client:
        assert read_all(client) == list(range(1, 61))
        released.set()


def test_a_page_that_is_too_large_is_asked_for_in_parts() -> None:
    with Loopback(data_manager(60)) as server, api(server.url) as client:
        client._transport._largest = 1_000  # seven tasks
        assert read_all(client) == list(range(1, 61))


def test_a_task_that_is_too_large_by_itself_is_an_error() -> None:
    with Loopback(data_manager(60)) as server, api(server.url) as client:
        client._transport._largest = 50
        with pytest.raises(TooLarge, match="/api/tasks/ with more than 50 bytes"):
            read_all(client)


def test_a_server_that_takes_too_long_for_a_single_task_is_not_asked_for_ever() -> None:
    released = threading.Event()

    def slow(_request: Received) -> Answer:
        released.wait(10.0)
        return Answer(status=503)

    with Loopback(slow) as server, api(server.url, timeout_s=0.1, patience_s=0.2) as client:
        with pytest.raises(LabelStudioUnreachable, match="did not answer /api/tasks/"):
            read_all(client)
        released.set()


def test_no_task_at_all_is_no_page() -> None:
    with Loopback(data_manager(0)) as server, api(server.url) as client:
        assert list(client.labelled_tasks(1)) == []


# Cost


def test_without_tls_no_request_waits_until_the_head_of_its_answer_is_acknowledged() -> None:
    """A kernel puts that off for 40 ms when a connection is used again and the server sends head and body apart."""
    with Loopback(lambda _: Answer(project())) as server, api(server.url) as client:
        took = []
        for _ in range(21):
            began = time.monotonic()
            client.project(1)
            took.append(time.monotonic() - began)
        assert median(took) < 0.03
    assert {request.headers["Connection"] for request in server.received} == {"close"}


def test_with_tls_connections_are_used_again() -> None:
    with api("https://127.0.0.1:1") as client:
        assert client._transport._http.headers["Connection"] == "keep-alive"


def test_the_sdk_is_imported_with_the_first_call_and_never_its_heavy_part() -> None:
    with Loopback(lambda _: Answer(project())) as server:
        code = f"""
import sys
from ml_backend.label_studio import LabelStudioApi
with LabelStudioApi({server.url!r}, {LEGACY!r}) as client:
    assert "label_studio_sdk" not in sys.modules
    client.project(1)
assert "label_studio_sdk" in sys.modules
assert not {{"pandas", "numpy"}} & sys.modules.keys()
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
