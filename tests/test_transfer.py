"""Upgrades and backups: a newer release's state is refused, an older one's read; export and import of a project."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.bootstrap import make_services
from ml_backend.errors import BadInput, LeaseLost, NewerState, RefitError, Unavailable
from ml_backend.events import parse
from ml_backend.settings import Settings
from ml_backend.state import SyncState
from ml_backend.state.schema import SCHEMA
from ml_backend.state.transfer import KEPT, OVER, Transfer
from ml_backend.web import create_app
from tests.calls import environment, event, setup_body
from tests.faults.stage import annotation, uid
from tests.parrot import UID, publish
from tests.samples import webhooks
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from ml_backend.bootstrap import Services

SAMPLE = Path(__file__).parent / "samples" / "state-schema-1.jsonl.gz"
SEVEN = uid(7)


@pytest.fixture
def services(valkey_socket: Path, valkey: redis.Redis, tmp_path: Path) -> Iterator[Services]:
    services = make_services(Settings.from_environment(environment(valkey_socket, tmp_path)), timeout_s=5)
    yield services
    services.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Services]:
    """Another installation: its own Redis, the same store."""
    with running_valkey() as socket:
        services = make_services(Settings.from_environment(environment(socket, tmp_path)), timeout_s=5)
        yield services
        services.close()


def annotate(services: Services, *numbers: int) -> None:
    for number in numbers:
        body = annotation(number)
        services.state.record(parse(body["action"], body), 1000.0 + number)


def exported(services: Services, of: str = SEVEN) -> list[bytes]:
    return list(services.transfer().lines(of, release="0.1.0", now=2000.0))


def held(client: redis.Redis, of: str) -> dict[str, Any]:
    """What Redis holds of a project, in a form that does not depend on the order in which it came."""
    found: dict[str, Any] = {}
    for name, kind in KEPT.items():
        key = f"mlb:{{{of}}}:{name}"
        read = {"hash": client.hgetall, "zset": lambda key: dict(client.zrange(key, 0, -1, withscores=True))}
        read |= {"list": lambda key: client.lrange(key, 0, -1), "string": client.get}
        found[name] = read[kind](key)
    return found


def test_what_is_imported_is_what_was_exported(services: Services, other: Services) -> None:
    for request in webhooks()[:12]:
        assert request.body is not None
        services.backend.fit(request.body["action"], request.body)
    (project,) = services.state.uids()
    publish(services.registry, "yes", project)
    services.state.decided(project, "train", "ten annotations, größer", 3.0)
    assert other.transfer().take_in(exported(services, project), now=2000.0) == project
    before, after = held(services.redis, project), held(other.redis, project)
    assert after["meta"].pop(b"want_complete")
    before["meta"].pop(b"want_complete", None)
    assert after == before
    assert other.state.uids() == [project]
    ids = {one.id for task in services.state.stored(project) for one in task.annotations}
    assert {one.id for task in other.state.stored(project) for one in task.annotations} == ids
    assert ids
    serving = other.registry.serving(project)
    assert serving is not None
    assert serving.number == 1


def test_an_imported_project_goes_on_where_it_was(services: Services, other: Services) -> None:
    annotate(services, 1, 2, 3)
    other.transfer().take_in(exported(services), now=2000.0)
    annotate(other, 3, 4)
    project = other.state.load(SEVEN)
    assert project is not None
    assert project.derived.total_annotations_number == 4
    assert project.complete_wanted_at == 2000.0
    assert other.registry.new_number(SEVEN) == 1


def test_an_export_is_of_one_moment(services: Services, other: Services) -> None:
    annotate(services, *range(1, 1200))
    lines = services.transfer().lines(SEVEN, release="0.1.0", now=2000.0)
    some = [next(lines), next(lines)]
    annotate(services, 1200, 1201)
    other.transfer().take_in([*some, *lines], now=2000.0)
    project = other.state.load(SEVEN)
    assert project is not None
    assert project.derived.total_annotations_number == 1199
    assert sum(len(task.annotations) for task in other.state.stored(SEVEN)) == 1199


def copies_in(client: redis.Redis) -> list[bytes]:
    """What an export or an import that is under way holds in Redis; it goes by itself after a time."""
    return [*client.scan_iter("*}:export-*"), *client.scan_iter("*}:import-*")]


def test_an_export_lasts_however_slowly_it_is_read(services: Services) -> None:
    annotate(services, *range(1, 1200))
    lines = services.transfer().lines(SEVEN, release="0.1.0", now=2000.0)
    for _ in range(4):
        next(lines)
        for copy in copies_in(services.redis):
            services.redis.expire(copy, 60)
    next(lines)
    assert min(services.redis.ttl(copy) for copy in copies_in(services.redis)) > 60


def test_an_export_that_nobody_read_on_for_too_long_has_no_end_instead_of_a_wrong_one(services: Services) -> None:
    annotate(services, *range(1, 1200))
    lines = services.transfer().lines(SEVEN, release="0.1.0", now=2000.0)
    read = [next(lines), next(lines)]
    services.redis.delete(*copies_in(services.redis))
    with pytest.raises(RefitError, match="begin again"):
        read.extend(lines)
    assert not any(b'"end"' in line for line in read)


def test_an_import_that_stood_still_for_too_long_changes_nothing(services: Services, other: Services) -> None:
    annotate(services, 1, 2)
    annotate(other, 1, 2, 3)

    def slow() -> Iterator[bytes]:
        for number, line in enumerate(exported(services)):
            if number == 3:
                other.redis.delete(*copies_in(other.redis))
            yield line

    before = held(other.redis, SEVEN)
    with pytest.raises(RefitError, match="begin again"):
        other.transfer().take_in(slow(), now=2000.0, replace=True)
    assert held(other.redis, SEVEN) == before
    assert copies_in(other.redis) == []


def test_a_part_without_entries_is_none(services: Services, other: Services) -> None:
    annotate(services, 1, 2)
    annotate(other, 1, 2, 3)
    head, *rest, end = exported(services)
    nothing = b'{"key": "history", "type": "list", "entries": []}'
    lines = [head, nothing, *rest, json.dumps({"end": json.loads(end)["end"] + 1}).encode()]
    other.transfer().take_in(lines, now=2000.0, replace=True)
    assert sum(len(task.annotations) for task in other.state.stored(SEVEN)) == 2
    assert other.runs.history(SEVEN) == []


def test_an_export_leaves_nothing_behind_even_when_its_reader_goes_away(services: Services) -> None:
    annotate(services, 1)
    before = set(services.redis.scan_iter())
    lines = services.transfer().lines(SEVEN, release="0.1.0", now=2000.0)
    next(lines)
    lines.close()  # type: ignore[attr-defined]
    assert set(services.redis.scan_iter()) == before


def test_a_project_that_is_known_is_replaced_only_when_asked_for(services: Services, other: Services) -> None:
    annotate(services, 1, 2)
    annotate(other, 1, 2, 3)
    with pytest.raises(BadInput, match="--replace"):
        other.transfer().take_in(exported(services), now=2000.0)
    assert sum(len(task.annotations) for task in other.state.stored(SEVEN)) == 3
    other.transfer().take_in(exported(services), now=2000.0, replace=True)
    assert sum(len(task.annotations) for task in other.state.stored(SEVEN)) == 2


def test_nothing_of_a_replaced_state_is_left(services: Services, other: Services) -> None:
    annotate(services, 1, 2)
    services.state.decided(SEVEN, "train", "the exported one's", 3.0)
    annotate(other, 1, 2, 3)
    other.state.decided(SEVEN, "wait", "the replaced one's", 3.0)
    # It is being synced, an event came meanwhile, and fresh predictions wait.
    syncs = SyncState(other.redis)
    holder = other.standings().take(SEVEN, kind="complete")
    assert holder is not None
    sync = syncs.begin(SEVEN, "complete", 1500.0)
    annotate(other, 4)
    other.refresh_records().asked(SEVEN, "v9-20261122-0755", "promoted")
    hold = other.refresh_records().take(SEVEN)
    assert hold is not None
    assert other.redis.exists(*(f"mlb:{{{SEVEN}}}:{name}" for name in OVER)) == 4

    lines = exported(services)
    other.transfer().take_in(lines, now=2000.0, replace=True)
    with running_valkey() as socket, connect(socket) as empty:
        Transfer(empty).take_in(lines, now=2000.0)
        assert set(other.redis.scan_iter(f"mlb:{{{SEVEN}}}:*")) == set(empty.scan_iter(f"mlb:{{{SEVEN}}}:*"))
        assert held(other.redis, SEVEN) == held(empty, SEVEN)
    assert other.state.decided_so_far(SEVEN) == {"train": 1}
    # Who was at it notices.
    with pytest.raises(LeaseLost):
        holder.say(phase="reading")
    with pytest.raises(LeaseLost):
        syncs.apply(sync, [], 2001.0)
    with pytest.raises(LeaseLost):
        other.refresh_records().write(hold, phase="sending")


def test_an_export_that_is_made_during_a_sync_says_nothing_of_it(services: Services, other: Services) -> None:
    annotate(services, 1)
    SyncState(services.redis).begin(SEVEN, "complete", 1500.0)
    annotate(services, 2)
    other.transfer().take_in(exported(services), now=2000.0)
    project = other.state.load(SEVEN)
    assert project is not None
    assert not {name for name in project.meta if name.startswith("sync")}
    assert not other.redis.exists(f"mlb:{{{SEVEN}}}:touched")


def test_a_project_that_trains_is_not_replaced(services: Services, other: Services) -> None:
    annotate(services, 1)
    annotate(other, 1)
    other.runs.request(SEVEN, trigger="x", reason="y", due=0.0, click=True, now=0.0)
    with pytest.raises(BadInput, match="cancel that first"):
        other.transfer().take_in(exported(services), now=2000.0, replace=True)


WRONG = {
    "nothing": lambda lines: [],
    "no export": lambda lines: [b'{"action": "ANNOTATION_CREATED"}'],
    "no JSON": lambda lines: [lines[0], b"{"],
    "no object": lambda lines: [lines[0], b"[]"],
    "cut short": lambda lines: lines[:-1],
    "a line is missing": lambda lines: [*lines[:2], *lines[3:]],
    "another project's": lambda lines: [lines[0].replace(SEVEN.encode(), b"8.1795333883"), *lines[1:]],
    "a path for a project": lambda lines: [lines[0].replace(SEVEN.encode(), b"../../etc"), *lines[1:]],
    "a key of nobody": lambda lines: [lines[0], b'{"key": "running", "type": "hash", "entries": []}', lines[-1]],
    "a key of another type": lambda lines: [lines[0], b'{"key": "meta", "type": "list", "entries": []}', lines[-1]],
    "an entry of no use": lambda lines: [lines[0], b'{"key": "meta", "type": "hash", "entries": [[1]]}', lines[-1]],
    "bytes that are none": lambda lines: [
        lines[0],
        b'{"key": "meta", "type": "hash", "entries": [["uid", {"base64": "?"}]]}',
        lines[-1],
    ],
    "no project in it": lambda lines: [lines[0], b'{"end": 1}'],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_export_is_refused_with_its_line_and_leaves_nothing(
    services: Services, other: Services, wrong: str
) -> None:
    annotate(services, 1)
    with pytest.raises(BadInput) as caught:
        other.transfer().take_in(WRONG[wrong](exported(services)), now=2000.0)
    assert caught.value.field.startswith("line ")
    assert list(other.redis.scan_iter()) == []


def test_an_export_of_a_newer_release_is_refused(services: Services, other: Services) -> None:
    annotate(services, 1)
    head, *rest = exported(services)
    for newer in ({"refit_export": 2}, {"schema": SCHEMA + 1}):
        changed = json.dumps({**json.loads(head), **newer}).encode()
        with pytest.raises(NewerState, match="newer release"):
            other.transfer().take_in([changed, *rest], now=2000.0)


def test_what_release_0_1_0_exported_is_read(other: Services) -> None:
    with gzip.open(SAMPLE) as lines:
        project = other.transfer().take_in(lines, now=2000.0)
    found = other.state.load(project)
    assert found is not None
    assert found.derived.total_annotations_number == 30
    assert found.training.trained_size == 20
    assert [run.status for run in other.runs.history(project)] == ["succeeded"]
    assert len(list(other.state.stored(project))) == 30


@pytest.mark.parametrize("call", ["event", "setup", "load", "export"])
def test_the_state_of_a_newer_release_is_refused_with_the_way_out_and_left_alone(services: Services, call: str) -> None:
    services.state.setup(UID, setup_body()["schema"], None, 1.0)
    services.redis.hset(f"mlb:{{{UID}}}:meta", "schema", SCHEMA + 1)
    body = event("ANNOTATION_CREATED")
    body["project"].update(id=5, created_at="2026-11-22T07:51:23.096964Z")
    before = {key: services.redis.dump(key) for key in services.redis.scan_iter()}
    calls = {
        "event": lambda: services.state.record(parse(body["action"], body), 2.0),
        "setup": lambda: services.state.setup(UID, setup_body()["schema"], None, 2.0),
        "load": lambda: services.state.load(UID),
        "export": lambda: exported(services, UID),
    }
    with pytest.raises(NewerState, match="upgrade ml-backend"):
        calls[call]()
    assert {key: services.redis.dump(key) for key in services.redis.scan_iter()} == before


def test_label_studio_is_told_that_the_state_is_a_newer_releases(services: Services) -> None:
    web = create_app(services).test_client()
    assert web.post("/webhook", json=annotation(1)).status_code == 200
    services.redis.hset(f"mlb:{{{SEVEN}}}:meta", "schema", SCHEMA + 1)
    answer = web.post("/webhook", json=annotation(2))
    assert answer.status_code == 503
    assert "newer release" in answer.status


def test_the_commands_move_a_project_from_one_installation_to_another(
    services: Services, other: Services, tmp_path: Path
) -> None:
    annotate(services, 1, 2)
    file = tmp_path / "backup.jsonl"
    ran = command(services, "export", "--to", str(file))
    assert f"exported project {SEVEN}" in ran.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    ran = command(other, "import", str(file))
    assert f"imported project {SEVEN}" in ran.stderr
    assert command(other, "export").stdout.splitlines()[1:] != []
    again = command(other, "import", str(file), status=1)
    assert "is known here already" in again.stderr


def command(services: Services, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    address = services.settings.redis_url
    assert address is not None
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", *arguments],
        env={"REDIS_URL": address.get_secret_value(), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == status, ran.stderr
    return ran


def test_without_redis_it_is_unavailable(tmp_path: Path) -> None:
    services = make_services(Settings.from_environment(environment(tmp_path / "nobody", tmp_path)))
    with pytest.raises(Unavailable):
        exported(services)
    services.close()


def write_sample() -> None:
    """How the sample was made, by release 0.1.0: ``python -c 'from tests.test_transfer import *; write_sample()'``."""
    with running_valkey() as socket, connect(socket):
        services = make_services(Settings.from_environment(environment(socket, Path("/tmp/nowhere"))), timeout_s=5)
        annotate(services, *range(1, 21))
        asked = services.runs.request(SEVEN, trigger="x", reason="ten annotations", due=0.0, click=True, now=0.0)
        services.runs.dispatch(SEVEN, 1.0, lambda *_: False)
        lease = services.runs.start(SEVEN, asked.id, "worker", 1.0)
        assert lease is not None
        snapshot = services.state.snapshot(SEVEN)
        services.state.attempted(SEVEN, snapshot, 1021.0, seconds=1.0, trained_size=20, config_hash="x")
        services.runs.finish(lease, "succeeded", reason="published v1", now=1022.0)
        annotate(services, *range(21, 31))
        SAMPLE.write_bytes(gzip.compress(b"".join(line + b"\n" for line in exported(services)), mtime=0))
        services.close()
