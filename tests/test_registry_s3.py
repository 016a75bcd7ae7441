"""The version store on a real S3 server on loopback: the same promises as in a folder."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import LeaseLost, StoreUnavailable, VersionCorrupt
from ml_backend.registry import Manifest, Registry
from tests.s3 import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

s3fs = pytest.importorskip("s3fs")
pytestmark = pytest.mark.skipif(find_spec("moto") is None, reason="needs moto[server]")

UID = "7.1795333883"
NOW = 1_795_334_100.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The operator's usual variables; nothing is passed to the registry but the URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"models-{os.getpid()}-{time.monotonic_ns()}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return name


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    (folder / "vectors").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(os.urandom(300_000))
    (folder / "vectors" / "words.txt").write_text("one\ntwo\n")
    return folder


def test_a_version_goes_to_s3_serves_from_another_machine_and_rolls_back(
    bucket: str, redis_client: redis.Redis, model: Path, tmp_path: Path
) -> None:
    here = Registry(f"s3://{bucket}/some/where", redis_client, cache=tmp_path / "here", keep=2)
    there = Registry(f"s3://{bucket}/some/where", redis_client, cache=tmp_path / "there", keep=2)
    for token in range(1, 5):
        number = here.new_number(UID)
        here.publish(UID, number, model, Manifest(), lambda: True, now=NOW + token)
        here.promote(UID, number, token=token, now=NOW + token)
    serving = there.serving(UID)
    assert serving is not None
    assert serving.number == 4
    folder = there.fetch(UID, 4)
    assert (folder / "vectors" / "words.txt").read_text() == "one\ntwo\n"
    assert (folder / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()
    assert [one.number for one in there.versions(UID)] == [4, 3, 2]  # 3 served when 4 was published, 2 before it
    assert there.rollback(UID, now=NOW).number == 3
    redis_client.flushall()
    rebuilt = here.serving(UID)
    assert rebuilt is not None
    assert rebuilt.number == 3
    assert here.new_number(UID) == 5


def test_a_lost_lease_and_a_leftover_show_nothing(
    bucket: str, redis_client: redis.Redis, model: Path, tmp_path: Path
) -> None:
    registry = Registry(f"s3://{bucket}", redis_client, cache=tmp_path / "cache")
    answers = iter([True, True, True, False])
    with pytest.raises(LeaseLost):
        registry.publish(UID, 1, model, Manifest(), lambda: next(answers), now=NOW)
    assert registry.versions(UID) == []
    assert registry.new_number(UID) == 1


def test_an_object_that_was_changed_or_deleted_is_refused(
    bucket: str, redis_client: redis.Redis, model: Path, tmp_path: Path
) -> None:
    registry = Registry(f"s3://{bucket}", redis_client, cache=tmp_path / "cache")
    system = s3fs.S3FileSystem(use_listings_cache=False)
    for number, harm in enumerate(("change", "delete"), start=1):
        registry.publish(UID, number, model, Manifest(), lambda: True, now=NOW)
        target = f"{bucket}/{UID}/{number}/weights.bin"
        if harm == "change":
            system.pipe_file(target, os.urandom(300_000))
        else:
            system.rm_file(target)
        with pytest.raises(VersionCorrupt, match=r"weights\.bin"):
            registry.fetch(UID, number)


def test_a_server_that_is_away_is_a_store_that_cannot_be_used(
    bucket: str, redis_client: redis.Redis, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    registry = Registry(f"s3://{bucket}", redis_client, cache=tmp_path / "cache")
    with pytest.raises(StoreUnavailable, match=f"s3://{bucket}"):
        registry.versions(UID)
    with pytest.raises(StoreUnavailable):
        registry.publish(UID, 1, model, Manifest(), lambda: True, now=NOW)
