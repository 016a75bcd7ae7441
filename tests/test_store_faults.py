"""What may happen to stored versions: the one before serves on, the reason is shown, and the next run heals it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.bootstrap import Services, make_services
from ml_backend.registry import Registry
from ml_backend.settings import Settings
from tests.disks import small_disk
from tests.running import LONG_LEASE, wait_until
from tests.test_training import CONFIG, UID, Switchable, annotate, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ml_backend.registry import Manifest, Version
    from ml_backend.training.run import Trainer

HARMS: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda file: os.truncate(file, 10),
    "tampered": lambda file: file.write_bytes(file.read_bytes().replace(b"good", b"evil")),
    "missing": lambda file: file.unlink(),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path) as mounted:
        yield mounted


@pytest.fixture
def open_services(
    redis_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Services]]:
    """Makes the parts over one Redis, with predictions being served, as in a web process."""
    made: list[Services] = []

    def opened(store: Path) -> Services:
        environment = {
            "REDIS_URL": f"unix://{redis_socket}",
            "ML_BACKEND_DATA_DIR": str(tmp_path),
            "ML_BACKEND_STORE": str(store),
            "ML_BACKEND_MODEL": "tests.models.counting:CountingModel",
            **LONG_LEASE,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        services = make_services(Settings.from_environment(environment), timeout_s=5)
        if not made:
            services.redis.flushall()
        services.server.start()
        made.append(services)
        return services

    yield opened
    for services in made:
        services.close()


@pytest.fixture
def services(open_services: Callable[..., Services], tmp_path: Path) -> Services:
    Switchable.during = None
    Switchable.spoiled = False
    opened = open_services(tmp_path / "versions")
    annotate(opened, *range(1, 13))
    return opened


def trained(services: Services) -> Any:
    """One more run; its record."""
    trainer = services.trainer()
    trainer._make_model = lambda uid, config, params: Switchable(uid, config, extra_params=params)
    return run(services, trainer)


def answered_by(services: Services) -> int:
    """The number of the version that answers a request."""
    [[prediction]] = services.server.predict(UID, [{"id": 1, "data": {"text": "a good thing"}}], CONFIG)
    return int(prediction["model_version"][1:].partition("-")[0])


def comes_to_serve(services: Services, number: int) -> None:
    wait_until(lambda: answered_by(services) == number, 20, f"version {number} answers")


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_artifact_leaves_the_version_before_serving_and_the_next_run_heals_it(
    services: Services, tmp_path: Path, harm: str
) -> None:
    trained(services)
    comes_to_serve(services, 1)
    # Between publishing and promoting nobody has read the files yet.
    promote = services.registry.promote

    def damaged_first(uid: str, number: int, **how: Any) -> Any:
        HARMS[harm](tmp_path / "versions" / UID / str(number) / "words.json")
        return promote(uid, number, **how)

    services.registry.promote = damaged_first  # type: ignore[method-assign]
    assert trained(services).status == "succeeded"
    services.registry.promote = promote  # type: ignore[method-assign]
    [error] = wait_until(lambda: services.server.errors(UID), 20, "the error of the damaged version")
    assert error.version.startswith("v2-")
    assert "words.json" in error.error
    assert answered_by(services) == 1
    healed = trained(services)
    assert "promoted: what served is damaged: version 2: words.json" in healed.ending
    comes_to_serve(services, 3)
    # The first answer may come a moment before the note is taken away.
    wait_until(lambda: services.server.errors(UID) == [], 20, "the note of the damaged version is gone")


def test_a_full_disk_fails_the_run_with_the_reason_and_the_next_run_heals_it(
    open_services: Callable[..., Services], disk: Path
) -> None:
    services = open_services(disk / "versions")
    annotate(services, *range(1, 13))
    trained(services)
    comes_to_serve(services, 1)
    Switchable.during = lambda training: (training.directory / "huge.bin").write_bytes(bytes(2_000_000))
    failed = trained(services)
    assert failed.status == "failed"
    assert "the disk of the version store is full" in failed.ending
    assert "is full" in services.state.decisions(UID, 1)[0]["reason"]
    assert [version.number for version in services.registry.versions(UID)] == [1]
    assert answered_by(services) == 1
    Switchable.during = None
    assert trained(services).status == "succeeded"
    assert [one.name for one in sorted((disk / "versions" / UID).iterdir()) if one.is_dir()] == ["1", "3"]
    comes_to_serve(services, 3)


@pytest.mark.parametrize("when", ["before it begins", "when it publishes"])
def test_an_unreachable_store_fails_the_run_with_the_reason_and_the_next_run_heals_it(
    services: Services, tmp_path: Path, when: str
) -> None:
    trained(services)
    comes_to_serve(services, 1)
    store, away = tmp_path / "versions", tmp_path / "unmounted"

    def unmount(_run: object = None) -> None:
        store.rename(away)
        store.write_text("a mount point without its disk")

    if when == "before it begins":
        unmount()
    else:
        Switchable.during = unmount
    failed = trained(services)
    assert failed.status == "failed"
    assert "the version store" in failed.ending
    assert str(store) in services.state.decisions(UID, 1)[0]["reason"]
    assert answered_by(services) == 1
    Switchable.during = None
    store.unlink()
    away.rename(store)
    assert trained(services).status == "succeeded"
    comes_to_serve(services, services.registry.versions(UID)[0].number)
    assert answered_by(services) > 1


def test_a_store_that_lost_everything_is_filled_again_by_the_next_run(services: Services, tmp_path: Path) -> None:
    trained(services)
    comes_to_serve(services, 1)
    shutil.rmtree(tmp_path / "versions")
    assert answered_by(services) == 1
    assert "what served is damaged: project 7.1795333883 has no version 1" in trained(services).ending
    comes_to_serve(services, 2)


def test_of_two_workers_in_the_middle_of_publishing_only_the_one_with_the_lease_ends_it(
    services: Services, open_services: Callable[..., Services], tmp_path: Path
) -> None:
    other = open_services(tmp_path / "versions")
    first_is_late, second_is_there = threading.Event(), threading.Event()

    def late(uid: str, number: int, files: Path, manifest: Manifest, check: Callable[[], bool], **rest: Any) -> Version:
        asked = iter(range(100))

        def slow() -> bool:
            if next(asked) == 2:  # all files are written, the manifest is not
                services.redis.hset(f"mlb:{{{UID}}}:running", "expires", "0")
                services.runs.expire(UID, services.runs.time())
                first_is_late.set()
                assert second_is_there.wait(30)
            return check()

        return Registry.publish(services.registry, uid, number, files, manifest, slow, **rest)

    def meanwhile(
        uid: str, number: int, files: Path, manifest: Manifest, check: Callable[[], bool], **rest: Any
    ) -> Any:
        def after_the_first() -> bool:
            second_is_there.set()
            first.join(30)
            return check()

        return Registry.publish(other.registry, uid, number, files, manifest, after_the_first, **rest)

    services.registry.publish = late  # type: ignore[method-assign, assignment]
    other.registry.publish = meanwhile  # type: ignore[method-assign]
    now = time.time()
    run_id = services.runs.request(UID, trigger="test", reason="a test", due=now, click=True, now=now).id
    assert services.runs.dispatch(UID, time.time(), lambda *_: True) is not None
    first = threading.Thread(target=worker(services).run, args=(UID, run_id, "worker-1"))
    first.start()
    assert first_is_late.wait(30)
    wait_until(lambda: other.runs.dispatch(UID, time.time(), lambda *_: False), 30, "the second attempt")
    worker(other).run(UID, run_id, "worker-2")
    assert not first.is_alive()
    done = services.runs.get(run_id)
    assert done is not None
    assert (done.status, done.worker, done.attempts) == ("succeeded", "worker-2", 2)
    assert [(one.number, one.status) for one in services.registry.versions(UID)] == [(2, "serving")]
    assert [one.name for one in (tmp_path / "versions" / UID).iterdir() if one.is_dir()] == ["2"]
    comes_to_serve(services, 2)


def worker(services: Services) -> Trainer:
    """A trainer without a keeper, which would kill this process when its lease is lost, as it must."""
    made = services.trainer()
    made._keep = lambda _lease: nullcontext(Blind())
    made._make_model = lambda uid, config, params: Switchable(uid, config, extra_params=params)
    return made


class Blind:
    """A keeper that never hears of anything."""

    cancelled = False
    lost = False
