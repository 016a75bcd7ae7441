"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from ml_backend.web import create_app
from tests.calls import services_on
from tests.followers import Follower
from tests.label_studio.driver import Driver
from tests.label_studio.server import RealLabelStudio
from tests.modelled import ModelLabelStudio
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services


# How long an example takes says nothing on a machine that does other things too. What decides whether a change lands
# must say the same twice; everywhere else each run looks somewhere new.
hypothesis.settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabelStudio]:
    """One real Label Studio for the whole session; tests make their own projects in it."""
    # By itself it gives a webhook up after a second and never repeats it, which a backend that is held up would miss.
    patient = {"WEBHOOK_TIMEOUT": "20"}
    with RealLabelStudio(tmp_path_factory.mktemp("label-studio"), environment=patient) as running:
        yield running


@pytest.fixture
def driver(label_studio: RealLabelStudio) -> Iterator[Driver]:
    """A person at that Label Studio, logged in with a personal access token."""
    with Driver(label_studio.base_url, label_studio.personal_token) as person:
        yield person


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[Path]:
    """One Valkey for all tests that begin with an empty one."""
    with running_valkey() as socket:
        yield socket


@pytest.fixture
def valkey(valkey_socket: Path) -> Iterator[redis.Redis]:
    """A client of it, emptied."""
    with connect(valkey_socket) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[Path]:
    """A Valkey that nobody talks to but the tests of one module."""
    with running_valkey() as socket:
        yield socket


@pytest.fixture
def redis_client(redis_socket: Path) -> Iterator[redis.Redis]:
    """A client of it; it is emptied."""
    with connect(redis_socket) as client:
        client.flushall()
        yield client


@pytest.fixture
def services(
    request: pytest.FixtureRequest, redis_socket: Path, redis_client: redis.Redis, tmp_path: Path
) -> Iterator[Services]:
    """All parts over it; a module's ``SETTINGS`` are what its environment says besides."""
    with services_on(redis_socket, tmp_path, **getattr(request.module, "SETTINGS", {})) as services:
        yield services


@pytest.fixture
def web(services: Services) -> FlaskClient:
    """A client of the application over them."""
    return create_app(services).test_client()


@pytest.fixture
def studio() -> ModelLabelStudio:
    """A modelled Label Studio with two tasks, nothing annotated."""
    found = ModelLabelStudio()
    found.import_tasks([[], []])
    return found


@pytest.fixture
def follower(valkey: redis.Redis, studio: ModelLabelStudio) -> Follower:
    """Whoever hears of it."""
    return Follower(valkey, "mlb:", studio)


def pytest_configure(config: pytest.Config) -> None:
    """The one warning that is not ours to mend: the SDK's token exchange calls pydantic by an old name."""
    config.addinivalue_line(
        "filterwarnings",
        r"ignore:The `parse_obj` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20:label_studio_sdk\.",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses the real server is marked, and waits longer: the first start installs it."""
    for item in items:
        if "label_studio" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.label_studio)
            item.add_marker(pytest.mark.timeout(600))
