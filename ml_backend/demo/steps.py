"""The two steps once things answer: a key for Label Studio's API, then the project, its tasks and its connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx

from ml_backend.demo.place import EMAIL
from ml_backend.demo.texts import CONFIG, texts
from ml_backend.errors import LabelStudioError, LabelStudioRefused, RefitError, WrongToken
from ml_backend.label_studio import LabelStudioApi

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.demo.place import Place

log = logging.getLogger("ml_backend")

TITLE = "Messages to a shop (demo)"


def log_in(place: Place) -> None:
    """Keep a personal access token, unless the one that is there works."""
    if key := place.kept(place.key_file.name):
        try:
            with LabelStudioApi(place.url, key) as api:
                api.check()
        except WrongToken:
            log.info("the demo's key is not taken any more: making another")
        else:
            return
    with httpx.Client(base_url=place.url, follow_redirects=True, timeout=30.0, trust_env=False) as browser:
        try:
            browser.get("/user/login/").raise_for_status()
            form = {"email": EMAIL, "password": place.password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            browser.post("/user/login/", data=form, headers={"Referer": place.url}).raise_for_status()
            headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": place.url}
            token = browser.post("/api/token/", headers=headers).raise_for_status().json()["token"]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise LabelStudioError(
                f"the demo's login does not work at {place.url}: {error}. Is another Label Studio on this port? "
                "Choose one with --label-studio-port"
            ) from error
    place.keep(place.key_file.name, str(token))


def set_up(place: Place, services: Services) -> None:
    """Make the project once, and connect it each time: it may have moved."""
    with services.label_studio(timeout_s=60.0) as api:
        number = place.kept("project")
        if not number or not _exists(api, int(number)):
            made = api.create_project(TITLE, CONFIG)
            api.import_tasks(made, [{"text": text} for text, _kind in texts()])
            number = str(made)
            place.keep("project", number)
        connector = services.connector(api)
        try:
            connector.connect(api.project(int(number)), active_learning=True)
        except LabelStudioError as error:
            raise RefitError(f"the demo's project could not be connected: {error}") from error


def _exists(api: LabelStudioApi, project_id: int) -> bool:
    try:
        api.project(project_id)
    except LabelStudioRefused as refused:
        if refused.status == 404:
            return False
        raise
    return True
