"""The version store: what is published is whole, what serves is agreed on, what is damaged is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import (
    LeaseLost,
    ModelError,
    RegistryError,
    StoreUnavailable,
    Unavailable,
    VersionCorrupt,
    VersionNotFound,
    WorkerStopping,
)
from ml_backend.registry import Manifest, Metrics, Promotion, Registry, decode_ids, encode_ids
from tests.disks import small_disk
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = "2.1795333883"
NOW = 1_795_334_100.0  # 2026-11-22 07:55 UTC


@pytest.fixture(params=["folder", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A plain folder, and the same through fsspec's interface, as any object store is used."""
    return str(tmp_path / "store") if request.param == "folder" else f"local://{tmp_path}/store"


@pytest.fixture
def registry(redis_socket: Path, store: str, tmp_path: Path) -> Iterator[Registry]:
    with connect(redis_socket) as client:
        client.flushall()
        yield Registry(store, client, cache=tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What a training left behind: two files, one in a folder below."""
    folder = tmp_path / "trained"
    (folder / "vectors").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(os.urandom(3000))
    (folder / "vectors" / "words.txt").write_text("one\ntwo\n")
    return folder


def publish(registry: Registry, model: Path, manifest: Manifest | None = None, now: float = NOW) -> int:
    number = registry.new_number(UID)
    registry.publish(UID, number, model, manifest or Manifest(), lambda: True, now=now)
    return number


def stored(store: str) -> Path:
    return Path(store.removeprefix("local://"))


def numbers(registry: Registry) -> list[int]:
    return [version.number for version in registry.versions(UID)]


# Publishing


def test_a_published_version_comes_back_with_its_files_and_everything_known_of_it(
    registry: Registry, model: Path
) -> None:
    known = Manifest(
        trained_on=encode_ids([1, 2, 3, 9]),
        metrics=Metrics({"accuracy": 0.9}, {"accuracy": 0.8}, 40),
        promotion=Promotion(promoted=True, reason="better on 40 examples"),
        counters={"task_number": 12},
        label_config_hash="abc",
        trigger="policy",
        parent=None,
        seed=7,
        params={"epochs": 3, "nested": {"a": [1]}},
    )
    number = publish(registry, model, known)
    version = registry.get(UID, number)
    assert version.name == "v1-20261122-0755"
    assert version.status == "standby"
    assert replace(version.manifest, number=0, name="", created_at=0.0, files={}) == known
    assert version.manifest.trained_on_ids == {1, 2, 3, 9}
    folder = registry.fetch(UID, number)
    assert (folder / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()
    assert (folder / "vectors" / "words.txt").read_text() == "one\ntwo\n"


def test_files_and_folders_are_private_to_their_owner(registry: Registry, model: Path, store: str) -> None:
    number = publish(registry, model)
    places = [registry.fetch(UID, number)] if store.startswith("local://") else [stored(store)]
    for place in places:
        for path in [place, *place.rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600) or path.name == "manifest.json", path


def test_numbers_go_up_and_are_never_used_again_even_when_redis_forgot_them(
    registry: Registry, model: Path, redis_socket: Path
) -> None:
    assert [publish(registry, model), publish(registry, model)] == [1, 2]
    with connect(redis_socket) as client:
        client.flushall()
    assert registry.new_number(UID) == 3


def test_a_number_counts_as_used_when_only_a_leftover_bears_it(registry: Registry, store: str) -> None:
    (stored(store) / UID / "41").mkdir(parents=True)
    (stored(store) / UID / "41" / "half.bin").write_bytes(b"x")
    assert registry.new_number(UID) == 42


def test_a_version_without_a_manifest_is_not_listed_and_the_next_publishing_sweeps_it(
    registry: Registry, model: Path, store: str
) -> None:
    first = registry.new_number(UID)
    half = stored(store) / UID / str(first)
    half.mkdir(parents=True)
    (half / "weights.bin").write_bytes(b"half of it")
    assert numbers(registry) == []
    with pytest.raises(VersionNotFound):
        registry.fetch(UID, first)
    second = publish(registry, model)
    assert numbers(registry) == [second]
    assert [path for path in half.parent.rglob("*") if path.is_file() and "half" in path.name] == []
    assert not list(half.glob("*"))


def test_a_lost_lease_publishes_nothing_however_late_it_is_lost(registry: Registry, model: Path, store: str) -> None:
    for held in range(4):  # asked once at first, once for each of two files, once before the manifest
        answers = iter([True] * held + [False] * 9)
        with pytest.raises(LeaseLost):
            registry.publish(UID, held + 1, model, Manifest(), lambda answers=answers: next(answers), now=NOW)
    assert numbers(registry) == []
    assert not [path for path in stored(store).rglob("*") if path.is_file()]


def test_a_number_that_is_taken_is_refused_and_the_version_there_stays(registry: Registry, model: Path) -> None:
    number = publish(registry, model)
    with pytest.raises(RegistryError, match="exists already"):
        registry.publish(UID, number, model, Manifest(), lambda: True, now=NOW)
    registry.fetch(UID, number)


@pytest.mark.parametrize("name", ["manifest.json", "line\nbreak", "back\\slash"])
def test_a_file_name_that_a_version_cannot_hold_is_the_models_error(registry: Registry, model: Path, name: str) -> None:
    (model / name).write_text("x")
    with pytest.raises(ModelError):
        publish(registry, model)
    assert numbers(registry) == []


def test_a_link_among_a_models_files_is_refused(registry: Registry, model: Path) -> None:
    (model / "weights-too.bin").symlink_to(model / "weights.bin")
    with pytest.raises(ModelError, match="link"):
        publish(registry, model)


def test_scores_that_are_not_numbers_are_left_out(registry: Registry, model: Path) -> None:
    number = publish(registry, model, Manifest(metrics=Metrics({"accuracy": 0.5, "f1": float("nan")})))
    assert registry.get(UID, number).manifest.metrics.candidate == {"accuracy": 0.5}


def test_a_full_disk_leaves_nothing_visible_and_the_serving_version_serves(
    redis_socket: Path, model: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path) as disk, connect(redis_socket) as client:
        client.flushall()
        registry = Registry(disk, client)
        first = publish(registry, model)
        registry.promote(UID, first, token=1, now=NOW)
        (model / "huge.bin").write_bytes(bytes(2_000_000))
        with pytest.raises(StoreUnavailable, match="full"):
            publish(registry, model)
        assert numbers(registry) == [first]
        serving = registry.serving(UID)
        assert serving is not None
        assert serving.number == first
        registry.fetch(UID, first)
        (model / "huge.bin").unlink()
        assert publish(registry, model) == 3  # healed by itself


def test_a_store_that_cannot_be_written_is_named(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with connect(redis_socket) as client:
        registry = Registry(tmp_path / "file" / "store", client)
        with pytest.raises(StoreUnavailable, match="file/store"):
            registry.publish(UID, 1, model, Manifest(), lambda: True, now=NOW)


def test_a_publisher_killed_halfway_leaves_nothing_listed(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    (model / "zz-last.bin").write_bytes(b"never reached")
    program = f"""
import os, sys
from pathlib import Path
from ml_backend.registry import Manifest, Registry
from tests.valkey import connect
asked = []
def lease():
    asked.append(1)
    if len(asked) == 4: os.kill(os.getpid(), 9)
    return True
Registry({str(tmp_path / "store")!r}, connect(Path({str(redis_socket)!r}))).publish(
    {UID!r}, 1, Path({str(model)!r}), Manifest(), lease, now=0.0)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert killed.returncode == -9
    assert list((tmp_path / "store" / UID / "1").rglob("*"))
    with connect(redis_socket) as client:
        client.flushall()
        registry = Registry(tmp_path / "store", client)
        assert numbers(registry) == []
        assert publish(registry, model) == 2
        assert numbers(registry) == [2]
        assert not (tmp_path / "store" / UID / "1").exists()


# Verification


@pytest.fixture
def folder_registry(redis_socket: Path, tmp_path: Path) -> Iterator[Registry]:
    with connect(redis_socket) as client:
        client.flushall()
        yield Registry(tmp_path / "store", client)


def truncate(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 10)


def tamper(folder: Path) -> None:
    before = (folder / "weights.bin").stat()
    data = bytearray((folder / "weights.bin").read_bytes())
    data[5] ^= 1
    (folder / "weights.bin").write_bytes(data)
    os.utime(folder / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))


def delete(folder: Path) -> None:
    (folder / "vectors" / "words.txt").unlink()


def add(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("")


def link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder.parent / "elsewhere")
    (folder / "weights.bin").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("harm", [truncate, tamper, delete, add, link])
def test_a_version_whose_files_are_not_as_published_is_refused_also_after_it_was_once_verified(
    folder_registry: Registry, model: Path, harm: object
) -> None:
    number = publish(folder_registry, model)
    folder = folder_registry.fetch(UID, number)
    harm(folder)  # type: ignore[operator]
    with pytest.raises(VersionCorrupt):
        folder_registry.fetch(UID, number)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a//b", ".", ""])
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(
    folder_registry: Registry, model: Path, name: str
) -> None:
    number = publish(folder_registry, model)
    path = folder_registry.fetch(UID, number) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 0}
    path.write_text(json.dumps(manifest))
    with pytest.raises(VersionCorrupt, match="names the file"):
        folder_registry.fetch(UID, number)
    assert numbers(folder_registry) == []


def test_a_manifest_of_a_newer_release_is_refused_with_the_way_out(folder_registry: Registry, model: Path) -> None:
    number = publish(folder_registry, model)
    path = folder_registry.fetch(UID, number) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(RegistryError, match=r"newer release.*upgrade"):
        folder_registry.get(UID, number)


def test_a_manifest_with_keys_of_a_later_patch_is_read(folder_registry: Registry, model: Path) -> None:
    number = publish(folder_registry, model)
    path = folder_registry.fetch(UID, number) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "blue"}))
    assert folder_registry.get(UID, number).number == number


@pytest.mark.parametrize("uid", ["..", "2", "2.3/..", "", "2.3\n", "٢.٣"])
def test_what_is_not_a_uid_never_becomes_a_path(folder_registry: Registry, uid: str) -> None:
    with pytest.raises(RegistryError, match="not a project uid"):
        folder_registry.fetch(uid, 1)


def test_a_damaged_copy_of_a_remote_version_is_fetched_again(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    with connect(redis_socket) as client:
        registry = Registry(f"local://{tmp_path}/store", client, cache=tmp_path / "cache")
        number = publish(registry, model)
        truncate(registry.fetch(UID, number))
        assert (registry.fetch(UID, number) / "weights.bin").stat().st_size == 3000


def test_a_remote_version_that_is_damaged_itself_is_refused(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    with connect(redis_socket) as client:
        registry = Registry(f"local://{tmp_path}/store", client, cache=tmp_path / "cache")
        number = publish(registry, model)
        tamper(tmp_path / "store" / UID / str(number))
        with pytest.raises(VersionCorrupt):
            registry.fetch(UID, number)


# The alias


def test_nothing_serves_before_the_first_promotion(registry: Registry, model: Path) -> None:
    publish(registry, model, Manifest(promotion=Promotion(promoted=False, reason="worse")))
    assert registry.serving(UID) is None
    with pytest.raises(VersionNotFound):
        registry.rollback(UID, now=NOW)


def test_promotion_moves_the_alias_and_the_statuses_say_so(registry: Registry, model: Path) -> None:
    first, second = publish(registry, model), publish(registry, model)
    aside = publish(registry, model, Manifest(promotion=Promotion(promoted=False, reason="worse on 40")))
    registry.promote(UID, first, token=1, now=NOW)
    registry.promote(UID, second, token=2, now=NOW + 1)
    assert {version.number: version.status for version in registry.versions(UID)} == {
        aside: "kept aside",
        second: "serving",
        first: "standby",
    }


def test_a_run_whose_token_is_older_than_the_last_ones_cannot_promote(registry: Registry, model: Path) -> None:
    first, second = publish(registry, model), publish(registry, model)
    registry.promote(UID, second, token=8, now=NOW)
    with pytest.raises(LeaseLost):
        registry.promote(UID, first, token=7, now=NOW)
    assert registry.serving(UID) == registry.get(UID, second)


def test_a_person_may_promote_anything_that_is_whole(folder_registry: Registry, model: Path) -> None:
    first, second = publish(folder_registry, model), publish(folder_registry, model)
    folder_registry.promote(UID, second, token=8, now=NOW)
    assert folder_registry.promote(UID, first, now=NOW).status == "serving"
    truncate(folder_registry.fetch(UID, second))
    with pytest.raises(VersionCorrupt):
        folder_registry.promote(UID, second, now=NOW)
    with pytest.raises(VersionNotFound):
        folder_registry.promote(UID, 77, now=NOW)


def test_rolling_back_again_and_again_goes_further_back_each_time(registry: Registry, model: Path) -> None:
    made = [publish(registry, model) for _ in range(3)]
    for token, number in enumerate(made):
        registry.promote(UID, number, token=token, now=NOW)
    assert registry.rollback(UID, now=NOW).number == made[1]
    assert registry.rollback(UID, now=NOW).number == made[0]
    with pytest.raises(VersionNotFound, match="no earlier version"):
        registry.rollback(UID, now=NOW)
    assert registry.serving(UID) == registry.get(UID, made[0])


def test_rolling_back_passes_over_a_damaged_version(folder_registry: Registry, model: Path) -> None:
    made = [publish(folder_registry, model) for _ in range(3)]
    for token, number in enumerate(made):
        folder_registry.promote(UID, number, token=token, now=NOW)
    truncate(folder_registry.fetch(UID, made[1]))
    assert folder_registry.rollback(UID, now=NOW).number == made[0]


def test_the_alias_is_rebuilt_from_the_store_when_redis_lost_it(
    registry: Registry, model: Path, redis_socket: Path
) -> None:
    made = [publish(registry, model) for _ in range(3)]
    for token, number in enumerate(made):
        registry.promote(UID, number, token=token + 10, now=NOW)
    registry.rollback(UID, now=NOW)
    with connect(redis_socket) as client:
        client.flushall()
    serving = registry.serving(UID)
    assert serving is not None
    assert serving.number == made[1]
    assert registry.rollback(UID, now=NOW).number == made[0]  # the way back is kept too
    registry.promote(UID, made[2], token=1, now=NOW)  # tokens begin again with Redis


def test_a_promotion_that_the_stores_note_missed_is_found_again(
    registry: Registry, model: Path, store: str, redis_socket: Path
) -> None:
    first = publish(registry, model)
    registry.promote(UID, first, token=1, now=NOW)
    note = stored(store) / UID / "serving.json"
    before = note.read_bytes()
    second = publish(registry, model, now=NOW + 60)
    registry.promote(UID, second, token=2, now=NOW + 61)
    publish(registry, model, Manifest(promotion=Promotion(promoted=False, reason="worse")), now=NOW + 90)
    note.write_bytes(before)
    with connect(redis_socket) as client:
        client.flushall()
    serving = registry.serving(UID)
    assert serving is not None
    assert serving.number == second


def test_the_next_version_mends_a_note_of_the_store_that_is_out_of_date(
    registry: Registry, model: Path, store: str
) -> None:
    first, second = publish(registry, model), publish(registry, model)
    registry.promote(UID, first, token=1, now=NOW)
    note = stored(store) / UID / "serving.json"
    outdated = note.read_bytes()
    registry.promote(UID, second, token=2, now=NOW)
    written = note.read_bytes()
    for wrong in (outdated, b"{broken"):
        note.write_bytes(wrong)
        publish(registry, model)
        assert note.read_bytes() == written


def test_versions_can_be_read_while_redis_is_away(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    with running_valkey() as own, connect(own) as client:
        registry = Registry(tmp_path / "store", client)
        number = publish(registry, model)
        registry.promote(UID, number, token=1, now=NOW)
    assert [(one.number, one.status) for one in registry.versions(UID)] == [(number, "serving")]
    with pytest.raises(Unavailable):
        registry.serving(UID)


def test_two_workers_publishing_and_promoting_at_once_both_stay_whole(
    redis_socket: Path, model: Path, tmp_path: Path
) -> None:
    with connect(redis_socket) as client:
        client.flushall()
    program = f"""
import sys
from pathlib import Path
from ml_backend.errors import LeaseLost
from ml_backend.registry import Manifest, Registry
from tests.valkey import connect
token = int(sys.argv[1])
registry = Registry({str(tmp_path / "store")!r}, connect(Path({str(redis_socket)!r}), timeout=5), keep=100)
for turn in range(15):
    number = registry.new_number({UID!r})
    try:
        registry.publish({UID!r}, number, Path({str(model)!r}), Manifest(), lambda: True, now=float(number))
        registry.promote({UID!r}, number, token=token, now=float(number))
    except LeaseLost:
        print("fenced")
    except Exception as error:
        print(type(error).__name__)  # swept by the other one, as a worker without the lease would be
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", program, token], stdout=subprocess.PIPE, text=True)
        for token in ("1", "2")
    ]
    said = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert set(said[0] + said[1]) <= {"fenced", "StoreUnavailable"}
    with connect(redis_socket) as client:
        registry = Registry(tmp_path / "store", client)
        found = registry.versions(UID)
        assert len(found) == 30 - sum(one == "StoreUnavailable" for one in said[0] + said[1])
        for version in found:
            registry.fetch(UID, version.number)
        assert sum(version.status == "serving" for version in found) == 1
        before = (tmp_path / "store" / UID / "serving.json").read_bytes()
        publish(registry, model)
        assert (tmp_path / "store" / UID / "serving.json").read_bytes() == before


# Retention


def test_the_last_versions_stay_and_whatever_an_alias_or_a_way_back_needs(
    redis_socket: Path, store: str, model: Path, tmp_path: Path
) -> None:
    with connect(redis_socket) as client:
        client.flushall()
        registry = Registry(store, client, keep=3, cache=tmp_path / "cache")
        for _ in range(3):
            publish(registry, model)
        registry.promote(UID, 1, token=1, now=NOW)
        registry.promote(UID, 2, token=2, now=NOW)
        for _ in range(4):
            publish(registry, model, Manifest(parent=2))
        assert numbers(registry) == [7, 6, 5, 2, 1]  # 2 serves, 1 is the way back
        registry.promote(UID, 7, token=3, now=NOW)
        publish(registry, model, Manifest(parent=7))
        assert numbers(registry) == [8, 7, 6, 2]


def test_nothing_is_removed_while_nobody_knows_what_serves(model: Path, tmp_path: Path) -> None:
    with running_valkey() as own, connect(own) as client:
        registry = Registry(tmp_path / "store", client, keep=1)
        publish(registry, model)
        registry.promote(UID, 1, token=1, now=NOW)
        registry.publish(UID, 5, model, Manifest(), lambda: True, now=NOW)
    registry.publish(UID, 6, model, Manifest(), lambda: True, now=NOW)
    assert numbers(registry) == [6, 5, 1]


# Finding


def test_a_version_is_found_by_its_name_by_its_number_and_not_by_a_wrong_time(registry: Registry, model: Path) -> None:
    publish(registry, model)
    for name in ("v1-20261122-0755", "v1", "1"):
        assert registry.find(UID, name).number == 1
    for name in ("v1-20250101-0000", "v2", "latest", ""):
        with pytest.raises(VersionNotFound):
            registry.find(UID, name)


@given(st.sets(st.integers(min_value=0, max_value=10**9)))
def test_task_ids_come_back_from_their_short_form(ids: set[int]) -> None:
    assert decode_ids(encode_ids(ids)) == ids


def test_many_task_ids_take_few_bytes() -> None:
    assert encode_ids(range(1, 100_001)) == "1-100000"
    every_third = range(0, 300_000, 3)
    assert decode_ids(encode_ids(every_third)) == set(every_third)
    assert len(encode_ids(every_third)) < 300_000


@pytest.mark.parametrize("text", ["a", "1-", "z:", "z:AAAA", "1-999999999999"])
def test_task_ids_that_cannot_be_read_are_damage(text: str) -> None:
    if text == "1-":
        assert decode_ids(text) == {1}
        return
    with pytest.raises(VersionCorrupt):
        decode_ids(text)


# Helpers


def test_verifying_again_does_not_read_the_files_again(folder_registry: Registry, model: Path) -> None:
    (model / "large.bin").write_bytes(os.urandom(60_000_000))
    number = publish(folder_registry, model)
    started = time.perf_counter()
    folder_registry.fetch(UID, number)
    first = time.perf_counter() - started
    started = time.perf_counter()
    folder_registry.fetch(UID, number)
    assert time.perf_counter() - started < first / 2


def test_a_worker_that_is_asked_to_stop_while_it_uploads_says_so_and_blames_no_store(
    redis_socket: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise WorkerStopping("the worker was asked to stop")

    with connect(redis_socket) as client:
        registry = Registry(f"local://{tmp_path}/store", client, cache=tmp_path / "cache")
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "put_file", stopped)
            with pytest.raises(WorkerStopping):
                publish(registry, model)
        assert registry.versions(UID) == []


def test_what_a_killed_process_had_begun_to_copy_goes_in_its_time(
    redis_socket: Path, model: Path, tmp_path: Path
) -> None:
    with connect(redis_socket) as client:
        registry = Registry(f"local://{tmp_path}/store", client, cache=tmp_path / "cache")
        copies = registry.fetch(UID, publish(registry, model)).parent
        for name, age_s in ((".9-left-behind", 3 * 86400), (".9-under-way", 60)):
            (copies / name).mkdir()
            (copies / name / "weights.bin").write_bytes(b"half")
            os.utime(copies / name, (time.time() - age_s, time.time() - age_s))
        registry.fetch(UID, publish(registry, model))
        assert [one.name for one in copies.iterdir() if one.name.startswith(".")] == [".9-under-way"]


def test_threads_may_fetch_the_same_remote_version_at_once(redis_socket: Path, model: Path, tmp_path: Path) -> None:
    with connect(redis_socket) as client:
        registry = Registry(f"local://{tmp_path}/store", client, cache=tmp_path / "cache")
        number = publish(registry, model)
        folders: list[Path] = []
        threads = [threading.Thread(target=lambda: folders.append(registry.fetch(UID, number))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(folders) == 8
        assert len(set(folders)) == 1
        assert [path.name for path in folders[0].parent.iterdir()] == [str(number)]
