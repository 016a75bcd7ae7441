"""A file uploaded to a real Label Studio: fetched with a personal access token, and gone after its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml_backend import MediaError
from ml_backend.bootstrap import make_services
from ml_backend.events import Project, TasksDeleted
from ml_backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.label_studio.driver import Driver
    from tests.label_studio.server import RealLabelStudio

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
PICTURE = bytes.fromhex("89504e470d0a1a0a") + bytes(range(256))


def test_an_uploaded_file_is_fetched_and_goes_with_its_task(
    label_studio: RealLabelStudio, driver: Driver, valkey_socket: Path, tmp_path: Path
) -> None:
    settings = {
        "REDIS_URL": f"unix://{valkey_socket}",
        "ML_BACKEND_DATA_DIR": str(tmp_path),
        "LABEL_STUDIO_URL": label_studio.base_url,
        "LABEL_STUDIO_API_KEY": label_studio.personal_token,
    }
    project = driver.create_project(CONFIG)
    services = make_services(Settings.from_environment(settings), timeout_s=5)
    try:
        (one,) = driver.upload(project["id"], "cat.png", PICTURE)
        task = driver.task(one)
        assert task["data"]["image"].startswith("/data/upload/")
        uid = "1.1795333883"
        services.state.setup(uid, CONFIG, None, 1.0)
        model = services.make_model(uid, CONFIG)
        assert model.path(task, "$image").read_bytes() == PICTURE
        with pytest.raises(MediaError, match=r"answered (404|500)") as missing:
            model.path({"id": one, "data": {"image": "/data/upload/1/nothing.png"}}, "image")
        assert missing.value.kind in {"not_found", "unreachable"}
        known = Project(id=1, created_at_us=1_795_333_883_000_000)
        services.state.record(TasksDeleted("TASKS_DELETED", known, (one,)), 2.0)
        assert services.media.sweep() == 1
        assert not list((tmp_path / "media").rglob("*.png"))
    finally:
        driver.delete_project(project["id"])
        services.close()
