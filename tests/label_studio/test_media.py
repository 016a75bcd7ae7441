"""Files of a real Label Studio's tasks: uploaded ones, those of its local files storage, and those in a bucket."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ml_backend import MediaError
from ml_backend.bootstrap import make_services
from ml_backend.events import Project, TasksDeleted
from ml_backend.settings import Settings
from tests.label_studio.driver import choices
from tests.s3 import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ml_backend.bootstrap import Services
    from tests.label_studio.driver import Driver
    from tests.label_studio.server import RealLabelStudio

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
PICTURE = bytes.fromhex("89504e470d0a1a0a") + bytes(range(256))


UID = "1.1795333883"

pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def project(driver: Driver) -> Iterator[int]:
    created = driver.create_project(CONFIG)["id"]
    yield created
    driver.delete_project(created)


def made(label_studio: RealLabelStudio, valkey_socket: Path, folder: Path, **more: str) -> Services:
    settings = {
        "REDIS_URL": f"unix://{valkey_socket}",
        "ML_BACKEND_DATA_DIR": str(folder),
        "LABEL_STUDIO_URL": label_studio.base_url,
        "LABEL_STUDIO_API_KEY": label_studio.personal_token,
        **more,
    }
    services = make_services(Settings.from_environment(settings), timeout_s=5)
    services.state.setup(UID, CONFIG, None, 1.0)
    return services


def as_synced(services: Services, project: int, task: int) -> dict[str, Any]:
    """The task with its data as a sync reads it, which is how it is stored."""
    with services.label_studio() as api:
        (found,) = (one.task for page in api.labelled_tasks(project) for one in page if one.task.id == task)
    return {"id": found.id, "data": found.data}


def as_shown(driver: Driver, task: int) -> dict[str, Any]:
    """The task with its data as the labelling page gets it: with addresses that a browser can follow."""
    return {"id": task, "data": driver.task(task)["data"]}


def test_an_uploaded_file_is_fetched_and_goes_with_its_task(
    label_studio: RealLabelStudio,
    driver: Driver,
    project: int,
    valkey_socket: Path,
    tmp_path: Path,
) -> None:
    services = made(label_studio, valkey_socket, tmp_path)
    try:
        (one,) = driver.upload(project, "cat.png", PICTURE)
        task = driver.task(one)
        assert task["data"]["image"].startswith("/data/upload/")
        model = services.make_model(UID, CONFIG)
        assert model.path(task, "$image").read_bytes() == PICTURE
        with pytest.raises(MediaError, match=r"answered (404|500)") as missing:
            model.path({"id": one, "data": {"image": "/data/upload/1/nothing.png"}}, "image")
        assert missing.value.kind in {"not_found", "unreachable"}
        known = Project(id=1, created_at_us=1_795_333_883_000_000)
        services.state.record(TasksDeleted("TASKS_DELETED", known, (one,)), 2.0)
        assert services.media.sweep() == 1
        assert not list((tmp_path / "media").rglob("*.png"))
    finally:
        services.close()


def test_a_file_of_the_local_files_storage_is_fetched(
    label_studio: RealLabelStudio,
    driver: Driver,
    project: int,
    valkey_socket: Path,
    tmp_path: Path,
) -> None:
    pictures = label_studio.local_files / f"pictures-{project}"
    pictures.mkdir()
    (pictures / "a cat & a dög.png").write_bytes(PICTURE)
    (one,) = driver.add_storage(project, "localfiles", path=str(pictures))
    driver.annotate(one, choices("cat", from_name="kind", to_name="image"))
    services = made(label_studio, valkey_socket, tmp_path)
    try:
        model = services.make_model(UID, CONFIG)
        task = as_synced(services, project, one)
        assert task["data"]["image"].startswith("/data/local-files/?d=")
        found = model.path(task, "image")
        assert found.read_bytes() == PICTURE
        assert found.suffix == ".png"
        assert model.path(as_shown(driver, one), "image").read_bytes() == PICTURE
        with pytest.raises(MediaError) as outside:
            model.path({"id": one, "data": {"image": "/data/local-files/?d=../label_studio.sqlite3"}}, "image")
        assert outside.value.kind in {"not_found", "refused", "unreachable"}
    finally:
        services.close()


@pytest.mark.skipif(find_spec("moto") is None, reason="needs moto[server]")
@pytest.mark.parametrize("presign", [True, False], ids=["by a signed address", "through Label Studio"])
def test_a_file_in_a_bucket_is_fetched(
    label_studio: RealLabelStudio,
    driver: Driver,
    project: int,
    valkey_socket: Path,
    tmp_path: Path,
    presign: bool,
) -> None:
    with s3_server() as endpoint:
        for path, content in (("pictures", b""), ("pictures/cat.png", PICTURE)):
            httpx.put(f"{endpoint}/{path}", content=content, trust_env=False).raise_for_status()
        keys = {"aws_access_key_id": "who", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        (one,) = driver.add_storage(project, "s3", bucket="pictures", s3_endpoint=endpoint, presign=presign, **keys)
        driver.annotate(one, choices("cat", from_name="kind", to_name="image"))
        # A signed address leads to the bucket itself, which the operator lists; what Label Studio passes on does not.
        listed = {"ML_BACKEND_MEDIA_HOSTS": endpoint.removeprefix("http://")} if presign else {}
        services = made(label_studio, valkey_socket, tmp_path / "media-of-it", **listed)
        try:
            model = services.make_model(UID, CONFIG)
            task = as_synced(services, project, one)
            assert task["data"]["image"] == "s3://pictures/cat.png"
            found = model.path(task, "image")
            assert (found.name, found.read_bytes()) == ("cat.png", PICTURE)
            assert model.path(as_shown(driver, one), "image").read_bytes() == PICTURE
        finally:
            services.close()
        if presign:
            unlisted = made(label_studio, valkey_socket, tmp_path / "unlisted")
            try:
                with pytest.raises(MediaError, match="ML_BACKEND_MEDIA_HOSTS"):
                    unlisted.make_model(UID, CONFIG).path(task, "image")
            finally:
                unlisted.close()
