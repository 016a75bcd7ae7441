"""Media of tasks: from Label Studio and listed hosts only, its key kept to Label Studio, and a cache with a limit."""

from __future__ import annotations

import base64
import gzip
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend import MediaError, TrainingBackend
from ml_backend.errors import LabelStudioUnreachable, SettingsError, Unavailable, WrongToken
from ml_backend.examples import Example
from ml_backend.media import Cache, Hosts, Media
from ml_backend.media.cache import GRACE_S, IDLE_S, link
from ml_backend.turns import Turns
from tests.followers import only
from tests.loopback import Answer, Loopback, Received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.followers import Follower
    from tests.modelled import ModelLabelStudio

STUDIO = "https://labels.example.com/app"
UID = "2.1795333883"
PICTURE = b"\x89PNG a picture"
CAT_IN_BUCKET = "czM6Ly9idWNrZXQvY2F0LnBuZw=="
KEY = {"Authorization": "Token the-key"}


# --- where a URL may lead ---------------------------------------------------------------------------------------------


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(STUDIO, ["images.example.com", "10.0.0.7:9000"])


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("/data/upload/3/ab-cat.png", f"{STUDIO}/data/upload/3/ab-cat.png"),
        ("/app/data/upload/3/ab-cat.png", f"{STUDIO}/data/upload/3/ab-cat.png"),
        ("upload/3/ab-cat.png", f"{STUDIO}/data/upload/3/ab-cat.png"),
        ("/data/local-files/?d=cats/1.png", f"{STUDIO}/data/local-files/?d=cats/1.png"),
        (f"{STUDIO}/data/upload/3/cat.png", f"{STUDIO}/data/upload/3/cat.png"),
        ("HTTPS://LABELS.example.com:443/app/data/upload/3/c.png", f"{STUDIO}/data/upload/3/c.png"),
        ("/storage-data/uploaded/?filepath=upload/3/c.png", f"{STUDIO}/storage-data/uploaded/?filepath=upload/3/c.png"),
        ("s3://bucket/cat.png", f"{STUDIO}/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvY2F0LnBuZw=="),
        (f"/tasks/7/presign/?fileuri={CAT_IN_BUCKET}", f"{STUDIO}/tasks/7/presign/?fileuri={CAT_IN_BUCKET}"),
        (f"/tasks/7/resolve/?fileuri={CAT_IN_BUCKET}", f"{STUDIO}/tasks/7/resolve/?fileuri={CAT_IN_BUCKET}"),
    ],
)
def test_label_studios_own_files_are_asked_for_with_the_key(hosts: Hosts, url: str, asked: str) -> None:
    address = hosts.address(url, 7)
    assert (address.url, address.with_key) == (asked, True)


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/cat.png",
        "https://images.example.com./cat.png",
        "http://10.0.0.7:9000/cat.png",
        "https://labels.example.com/static/cat.png",
    ],
)
def test_others_and_what_is_none_of_its_files_are_asked_for_without_it(hosts: Hosts, url: str) -> None:
    address = hosts.address(url, 7)
    assert (address.url, address.with_key) == (url, False)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://169.254.169.254/latest/meta-data/", "host_not_allowed"),
        ("http://localhost:6379/", "host_not_allowed"),
        ("http://[::1]/x.png", "host_not_allowed"),
        ("http://10.0.0.7/x.png", "host_not_allowed"),
        ("https://images.example.com:8443/x.png", "host_not_allowed"),
        ("https://images.example.com.evil.org/x.png", "host_not_allowed"),
        ("https://images.example.com@evil.org/x.png", "host_not_allowed"),
        ("https://user@images.example.com/x.png", "host_not_allowed"),
        ("http://labels.example.com/app/data/upload/3/x.png", "host_not_allowed"),
        ("//evil.org/x.png", "not_media"),
        ("https://images.example.com\\@evil.org/x.png", "not_media"),
        ("https:///x.png", "not_media"),
        ("http://images.example.com:99999/", "not_media"),
        ("file:///etc/passwd", "not_media"),
        ("ftp://images.example.com/x.png", "not_media"),
        ("/etc/passwd", "not_media"),
        ("/api/projects/1/", "not_media"),
        ("/tasks/7/", "not_media"),
        ("/tasks/7/annotations/?x=/tasks/7/presign/", "not_media"),
        ("/tasks/../api/presign/", "not_media"),
        ("/tasks/7/presign/../../../api/projects/1/?fileuri=x", "not_media"),
        ("just a text", "not_media"),
        ("/data/../api/projects/1/", "not_media"),
        ("/data/%2e%2e/api/projects/1/", "not_media"),
        ("/data/upload/%252e%252e/%252e%252e/api/x", "not_media"),
        ("/data/upload//x.png", "not_media"),
        ("/data/upload/3/\x00.png", "not_media"),
    ],
)
def test_nothing_else_is_asked_for(hosts: Hosts, url: str, kind: str) -> None:
    with pytest.raises(MediaError) as found:
        hosts.address(url, 7)
    assert found.value.kind == kind


def test_without_its_address_label_studios_files_say_which_setting_is_missing() -> None:
    with pytest.raises(MediaError, match="set LABEL_STUDIO_URL") as found:
        Hosts(None).address("/data/upload/3/cat.png")
    assert found.value.kind == "not_configured"


@pytest.mark.parametrize("listed", ["https://images.example.com", "*.example.com", "host/path", "user@host", "host:x"])
def test_what_is_no_host_is_refused_when_it_is_listed(listed: str) -> None:
    with pytest.raises(SettingsError, match="ML_BACKEND_MEDIA_HOSTS"):
        Hosts(None, [listed])


# --- asking -----------------------------------------------------------------------------------------------------------


class Studio:
    """A Label Studio that serves one file to who has the key, and another host; ``files`` answers of both by path."""

    def __init__(self) -> None:
        self.files: dict[str, Answer] = {}
        self.key = KEY["Authorization"]

    def answer(self, request: Received) -> Answer:
        if request.headers.get("Authorization") != self.key and request.path.startswith("/data/"):
            return Answer(b"who are you?", 401)
        return self.files.get(request.path, Answer(b"no such page", 404))

    def other(self, request: Received) -> Answer:
        return self.files.get(request.path, Answer(b"no such page", 404))


@pytest.fixture
def studio_files() -> Studio:
    return Studio()


@pytest.fixture
def label_studio_host(studio_files: Studio) -> Iterator[Loopback]:
    with Loopback(studio_files.answer) as running:
        yield running


@pytest.fixture
def other_host(studio_files: Studio) -> Iterator[Loopback]:
    with Loopback(studio_files.other) as running:
        yield running


def known(uid: str, ids: Any) -> dict[int, bool]:
    return dict.fromkeys(ids, True)


@pytest.fixture
def media(label_studio_host: Loopback, other_host: Loopback, tmp_path: Path) -> Iterator[Media]:
    cache = Cache(tmp_path / "cache", 1_000_000, known)
    hosts = Hosts(label_studio_host.url, [f"127.0.0.1:{other_host.port}"])
    made = Media(hosts, cache, lambda renew: KEY, timeout_s=5, deadline_s=10)
    yield made
    made.close()


def kind_of(media: Media, url: str) -> str:
    with pytest.raises(MediaError) as found:
        media.path(UID, 1, url)
    return found.value.kind


def test_an_uploaded_file_comes_once_and_then_from_the_cache(
    media: Media, label_studio_host: Loopback, studio_files: Studio
) -> None:
    studio_files.files["/data/upload/3/ab-cat.png"] = Answer(PICTURE)
    for _ in range(2):
        found = media.path(UID, 1, "/data/upload/3/ab-cat.png")
        assert found.read_bytes() == PICTURE
        assert found.name == "ab-cat.png"
    assert len(label_studio_host.received) == 1


def test_a_local_file_keeps_its_name(media: Media, studio_files: Studio) -> None:
    studio_files.files["/data/local-files/?d=cats/my%20cat.jpg"] = Answer(PICTURE)
    found = media.path(UID, 1, "/data/local-files/?d=cats/my%20cat.jpg")
    assert (found.name, found.read_bytes()) == ("my_cat.jpg", PICTURE)


def test_a_file_in_a_bucket_keeps_its_name_also_where_label_studio_shows_another_address(
    media: Media, studio_files: Studio
) -> None:
    shown = f"/tasks/1/resolve/?fileuri={CAT_IN_BUCKET}"
    studio_files.files[shown] = Answer(PICTURE)
    found = media.path(UID, 1, shown)
    assert (found.name, found.read_bytes()) == ("cat.png", PICTURE)


def test_uploads_that_lie_in_a_cloud_come_through_label_studios_proxy(media: Media, studio_files: Studio) -> None:
    studio_files.files["/storage-data/uploaded/?filepath=upload/3/cat.png"] = Answer(PICTURE)
    assert media.path(UID, 1, "/data/upload/3/cat.png").read_bytes() == PICTURE


def test_a_listed_host_never_sees_the_key(media: Media, other_host: Loopback, studio_files: Studio) -> None:
    studio_files.files["/cat.png?size=9"] = Answer(PICTURE)
    assert media.path(UID, 1, f"{other_host.url}/cat.png?size=9").read_bytes() == PICTURE
    (request,) = other_host.received
    assert "Authorization" not in request.headers


def test_a_redirect_leads_to_listed_hosts_only_and_never_with_the_key(
    media: Media, label_studio_host: Loopback, other_host: Loopback, studio_files: Studio
) -> None:
    files = studio_files.files
    files["/data/upload/3/moved.png"] = Answer(b"", 302, {"Location": f"{other_host.url}/cat.png"})
    files["/cat.png"] = Answer(PICTURE)
    assert media.path(UID, 1, "/data/upload/3/moved.png").read_bytes() == PICTURE
    assert "Authorization" not in other_host.received[-1].headers
    files["/away.png"] = Answer(b"", 302, {"Location": "http://127.0.0.1:1/secret"})
    assert kind_of(media, f"{other_host.url}/away.png") == "host_not_allowed"
    files["/file.png"] = Answer(b"", 302, {"Location": "file:///etc/passwd"})
    assert kind_of(media, f"{other_host.url}/file.png") == "host_not_allowed"
    files["/data/upload/3/login.png"] = Answer(b"", 302, {"Location": "/user/login/"})
    assert kind_of(media, "/data/upload/3/login.png") == "refused"
    files["/back.png"] = Answer(b"", 302, {"Location": f"{label_studio_host.url}/data/upload/3/cat.png"})
    asked = len(label_studio_host.received)
    assert kind_of(media, f"{other_host.url}/back.png") == "refused"
    assert len(label_studio_host.received) == asked
    files["/round.png"] = Answer(b"", 302, {"Location": "/round.png"})
    assert kind_of(media, f"{other_host.url}/round.png") == "refused"


def test_an_access_token_that_ended_is_renewed_once(
    label_studio_host: Loopback, studio_files: Studio, tmp_path: Path
) -> None:
    studio_files.files["/data/upload/3/cat.png"] = Answer(PICTURE)
    asked: list[bool] = []

    def authorization(renew: bool) -> dict[str, str]:
        asked.append(renew)
        return KEY if renew else {"Authorization": "Bearer old"}

    cache = Cache(tmp_path, 1_000_000, known)
    media = Media(Hosts(label_studio_host.url), cache, authorization)
    assert media.path(UID, 1, "/data/upload/3/cat.png").read_bytes() == PICTURE
    assert asked == [False, True]
    studio_files.key = "Token another"
    assert kind_of(media, "/data/upload/3/dog.png") == "refused"
    assert asked == [False, True, False, True]
    media.close()


def test_errors_say_what_came_of_asking(media: Media, other_host: Loopback, studio_files: Studio) -> None:
    studio_files.files |= {
        "/private.png": Answer(b"", 403),
        "/broken.png": Answer(b"", 500),
        "/hangs-up.png": Answer(hang_up=True),
        "/large.png": Answer(b"x" * 1_000_001),
    }
    expected = {
        "/nowhere.png": "not_found",
        "/private.png": "refused",
        "/broken.png": "unreachable",
        "/hangs-up.png": "unreachable",
        "/large.png": "too_large",
    }
    assert {path: kind_of(media, other_host.url + path) for path in expected} == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WrongToken("a legacy token"), "refused"),
        (LabelStudioUnreachable("no answer"), "unreachable"),
        (SettingsError("LABEL_STUDIO_API_KEY", "is not set"), "not_configured"),
    ],
)
def test_without_a_key_that_works_the_error_says_so(error: Exception, kind: str, tmp_path: Path) -> None:
    def authorization(renew: bool) -> dict[str, str]:
        raise error

    media = Media(Hosts(STUDIO), Cache(tmp_path, 1_000_000, known), authorization)
    assert kind_of(media, "/data/upload/3/cat.png") == kind


def test_what_a_store_keeps_with_gzip_is_unpacked(media: Media, other_host: Loopback, studio_files: Studio) -> None:
    noise = bytes(number * number % 251 for number in range(300_000))
    studio_files.files["/cat.png"] = Answer(gzip.compress(noise), headers={"Content-Encoding": "gzip"})
    assert media.path(UID, 1, f"{other_host.url}/cat.png").read_bytes() == noise
    assert other_host.received[0].headers["Accept-Encoding"] == "identity"


def test_a_decompression_bomb_ends_at_the_limit_and_is_never_held_in_memory(
    media: Media, other_host: Loopback, studio_files: Studio, tmp_path: Path
) -> None:
    bomb = gzip.compress(bytes(100_000_000), compresslevel=1)
    studio_files.files["/bomb.png"] = Answer(bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        assert kind_of(media, f"{other_host.url}/bomb.png") == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("encoding", "body", "kind"),
    [
        ("br", b"x", "not_media"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), "not_media"),
        ("gzip", b"no gzip at all", "not_media"),
        ("gzip", gzip.compress(b"x" * 1000)[:-9], "unreachable"),
    ],
)
def test_compression_that_was_not_asked_for_or_is_broken_is_refused(
    encoding: str, body: bytes, kind: str, media: Media, other_host: Loopback, studio_files: Studio
) -> None:
    studio_files.files["/cat.png"] = Answer(body, headers={"Content-Encoding": encoding})
    assert kind_of(media, f"{other_host.url}/cat.png") == kind


def test_data_urls_need_no_network(media: Media) -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    found = media.path(UID, 1, url)
    assert (found.read_bytes(), found.suffix) == (PICTURE, ".png")
    assert media.path(UID, 1, "data:,a%20text").read_bytes() == b"a text"
    assert kind_of(media, "data:image/png;base64,!") == "not_media"
    assert kind_of(media, "data:image/png") == "not_media"


# --- what a model author calls ----------------------------------------------------------------------------------------


def task(**data: Any) -> dict[str, Any]:
    return {"id": 1, "data": data}


def test_predict_gets_the_path_of_a_tasks_file(media: Media, studio_files: Studio) -> None:
    studio_files.files["/data/upload/3/cat.png"] = Answer(PICTURE)
    model = TrainingBackend("2", "<View/>").fetching(media.of(UID))
    for key, data in (
        ("image", {"image": "/data/upload/3/cat.png"}),
        ("$image", {"image": "/data/upload/3/cat.png"}),
        ("pages[0]", {"pages": ["/data/upload/3/cat.png"]}),
    ):
        assert model.path(task(**data), key).read_bytes() == PICTURE


def test_an_example_has_it_too_and_what_is_no_url_is_a_lookup_error(media: Media, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no URL under 'image'"):
        Example(task(text="x"), (), media.of(UID)).path("image")
    with pytest.raises(MediaError, match="nothing here fetches media"):
        Example(task(image="/data/upload/3/cat.png"), ()).path("image")


def test_a_runs_files_stay_although_the_cache_lets_them_go(media: Media, studio_files: Studio, tmp_path: Path) -> None:
    studio_files.files["/data/upload/3/cat.png"] = Answer(PICTURE)
    example = Example(task(image="/data/upload/3/cat.png"), (), media.of(UID, tmp_path / "run"))
    path = example.path("image")
    assert path.is_relative_to(tmp_path / "run")
    media.path(UID, 1, "/data/upload/3/cat.png").unlink()
    assert path.read_bytes() == PICTURE
    assert example.path("image") == path


# --- the cache --------------------------------------------------------------------------------------------------------


class Shelf:
    """A cache, its time, and what is known of tasks."""

    def __init__(self, root: Path, limit: int = 100) -> None:
        self.root = root
        self.now = 1_800_000_000.0
        self.known: dict[int, bool] | None = None
        self.away = False
        self.cache = Cache(root, limit, self.standing, lambda: self.now)

    def standing(self, uid: str, ids: Any) -> dict[int, bool] | None:
        if self.away:
            raise Unavailable("Redis is away")
        return dict.fromkeys(ids, True) if self.known is None else self.known

    def put(self, task: int, size: int = 40) -> Path:
        with self.cache.writing() as path:
            path.write_bytes(b"x" * size)
            return self.cache.put(path, UID, task, f"url {task}", "name")

    @property
    def tasks(self) -> set[int]:
        return {int(path.parent.parent.name) for path in self.root.glob("*/*/*/name")}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_the_least_recently_used_files_make_room(shelf: Shelf) -> None:
    for one in (1, 2):
        shelf.put(one)
        shelf.now += GRACE_S + 1
    assert shelf.cache.get(UID, 1, "url 1", "name") is not None
    shelf.now += GRACE_S + 1
    shelf.put(3)
    assert shelf.tasks == {1, 3}
    assert shelf.cache.get(UID, 2, "url 2", "name") is None


def test_a_file_that_was_just_asked_for_stays_although_the_cache_is_full(shelf: Shelf) -> None:
    for one in (1, 2, 3):
        shelf.put(one)
    assert shelf.tasks == {1, 2, 3}
    shelf.now += GRACE_S + 1
    shelf.cache.sweep()
    assert len(shelf.tasks) == 2


def test_what_another_process_put_in_is_seen_when_the_cache_is_swept(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(tmp_path)
    for one in (1, 2, 3):
        other.put(one)
    shelf.now += GRACE_S + 1
    shelf.put(4, size=10)
    assert len(shelf.tasks) == 3


def test_files_of_deleted_tasks_go_and_of_unknown_ones_when_nobody_asks_for_them(shelf: Shelf) -> None:
    for one in (1, 2, 3):
        shelf.put(one, size=1)
    shelf.known = {1: True, 2: False}
    assert shelf.cache.sweep() == 1
    assert shelf.tasks == {1, 3}
    shelf.now += IDLE_S + 1
    assert shelf.cache.sweep() == 1
    assert shelf.tasks == {1}
    assert not list(shelf.root.glob("*/3"))


def test_without_redis_nothing_is_taken_for_deleted(shelf: Shelf) -> None:
    shelf.put(1, size=1)
    shelf.away = True
    shelf.now += IDLE_S + 1
    assert shelf.cache.sweep() == 0
    shelf.put(2, size=1)
    assert shelf.tasks == {1, 2}


def test_files_of_a_deleted_project_go(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    cache = Cache(tmp_path, 100, lambda uid, ids: None, lambda: now[0])
    with cache.writing() as path:
        path.write_bytes(b"x")
        cache.put(path, UID, 1, "url", "name")
    now[0] += GRACE_S + 1
    assert cache.sweep() == 1
    assert not (tmp_path / UID).exists()


def test_a_download_that_broke_off_leaves_nothing(shelf: Shelf) -> None:
    def broken() -> None:
        with shelf.cache.writing() as path:
            path.write_bytes(b"x")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        broken()
    assert not [path for path in shelf.root.rglob("*") if path.is_file()]


def test_a_link_outlives_the_file(shelf: Shelf, tmp_path: Path) -> None:
    path = shelf.put(1)
    found = link(path, tmp_path / "run")
    path.unlink()
    assert found.stat().st_size == 40


def test_the_state_knows_which_tasks_are_alive(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.delete_tasks([2])))
    ask: Callable[[], Any] = lambda: follower.state.tasks_alive(studio.uid, [1, 2, 3])  # noqa: E731
    assert ask() == {1: True, 2: False}
    follower.state.mark(studio.uid, deleted_at=1.0)
    assert ask() is None
    assert follower.state.tasks_alive("9.1795333883", [1]) is None


# --- how many wait at once --------------------------------------------------------------------------------------------


def test_what_is_in_the_cache_needs_no_turn(tmp_path: Path) -> None:
    turns = Turns(1)
    with Loopback(lambda _: Answer(PICTURE)) as studio:
        cache = Cache(tmp_path / "cache", 1_000_000, known)
        media = Media(Hosts(studio.url, []), cache, lambda _renew: KEY, turns=turns)
        path = media.path(UID, 1, "/data/upload/1/cat.png")
        with turns.turn():
            time.sleep(1.1)
            assert media.path(UID, 1, "/data/upload/1/cat.png") == path
            with pytest.raises(MediaError, match="too many requests wait for files") as refused:
                media.path(UID, 1, "/data/upload/1/dog.png")
            assert refused.value.kind == "unreachable"
        media.close()
