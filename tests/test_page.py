"""The status page as a browser gets it, without one: who is let in, what forms need, what is said, and what is not."""

from __future__ import annotations

import html
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.errors import Unavailable
from ml_backend.state import State
from ml_backend.web import create_app
from ml_backend.web.page.session import COOKIE
from tests.calls import SENTIMENT, everything, services_on
from tests.parrot import UID, publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

HOME = f"/projects/{UID}"
PASSWORD = "s3cret"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ORDERS = ("train", "sync", "rollback", "versions/1/promote", "runs/5-1795333883-1/cancel")


@pytest.fixture
def services(services: Services) -> Services:
    services.state.setup(UID, SENTIMENT, None, time.time())
    return services


@pytest.fixture
def guarded(redis_socket: Path, redis_client: redis.Redis, tmp_path: Path) -> Iterator[FlaskClient]:
    with services_on(redis_socket, tmp_path, BASIC_AUTH_PASS=PASSWORD) as services:
        services.state.setup(UID, SENTIMENT, None, time.time())
        yield browser(services)


@pytest.fixture
def web(services: Services) -> FlaskClient:
    return browser(services)


def browser(services: Services) -> FlaskClient:
    client = create_app(services).test_client()
    client.environ_base["HTTP_ACCEPT"] = BROWSER["Accept"]
    return client


def token(page: Any) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found, page.text
    return html.unescape(found.group(1))


def sign_in(web: FlaskClient, password: str = PASSWORD, **more: str) -> Any:
    form = {"token": token(web.get("/login")), "user": "label-studio", "password": password, **more}
    return web.post("/login", data=form)


def order(web: FlaskClient, what: str) -> Any:
    return web.post(f"{HOME}/{what}", data={"token": token(web.get(HOME))})


# --- who sees what ----------------------------------------------------------------------------------------------------


def test_browsers_get_a_page_and_label_studio_gets_json(web: FlaskClient) -> None:
    assert "<h1>Projects</h1>" in web.get("/").text
    for accept in ("*/*", "application/json", ""):
        assert web.get("/", headers={"Accept": accept}).json["status"] == "UP"


def test_who_is_not_signed_in_is_sent_to_the_login_and_back(guarded: FlaskClient) -> None:
    answer = guarded.get(HOME)
    assert (answer.status_code, answer.location) == (303, "/login?next=%2Fprojects%2F5.1795333883")
    signed_in = sign_in(guarded, next=HOME)
    assert (signed_in.status_code, signed_in.location) == (303, HOME)
    assert guarded.get(HOME).status_code == 200


@pytest.mark.parametrize("there", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", ""])
def test_the_login_leads_nowhere_else(guarded: FlaskClient, there: str) -> None:
    assert sign_in(guarded, next=there).location == "/"


def test_the_session_opens_the_page_and_the_api_and_nothing_of_label_studio(guarded: FlaskClient) -> None:
    sign_in(guarded)
    assert guarded.get("/").status_code == 200
    assert guarded.get("/api/v1/projects").status_code == 200
    assert guarded.post("/versions", json={}).status_code == 401
    assert guarded.get("/metrics").status_code == 401


def test_basic_auth_opens_the_page_too(guarded: FlaskClient) -> None:
    assert guarded.get("/", auth=("label-studio", PASSWORD)).status_code == 200


def test_a_wrong_password_is_said_and_opens_nothing(guarded: FlaskClient) -> None:
    answer = sign_in(guarded, "wrong")
    assert answer.status_code == 401
    assert "password is wrong" in answer.text
    assert "wrong" not in answer.headers.get("Set-Cookie", "")
    assert guarded.get("/").status_code == 303


def test_signing_out_closes_the_page(guarded: FlaskClient) -> None:
    sign_in(guarded)
    guarded.post("/logout", data={"token": token(guarded.get("/"))})
    assert guarded.get("/").status_code == 303


def test_the_cookie_is_for_this_site_alone_and_out_of_reach_of_scripts(guarded: FlaskClient) -> None:
    cookie = sign_in(guarded).headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie


def test_behind_tls_the_cookie_is_for_tls_alone(guarded: FlaskClient) -> None:
    form = {"token": token(guarded.get("/login")), "user": "label-studio", "password": PASSWORD}
    assert "Secure" in guarded.post("/login", data=form, headers={"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]


def test_another_password_ends_every_session(redis_socket: Path, redis_client: redis.Redis, tmp_path: Path) -> None:
    with services_on(redis_socket, tmp_path, BASIC_AUTH_PASS=PASSWORD) as services:
        web = browser(services)
        sign_in(web)
        cookie = web.get_cookie(COOKIE)
        assert cookie is not None
    rotated = {"BASIC_AUTH_PASS": "another", "ML_BACKEND_BASIC_AUTH_EXTRA": PASSWORD}
    for settings, status in (({"BASIC_AUTH_PASS": "another"}, 303), (rotated, 200)):
        with services_on(redis_socket, tmp_path, **settings) as services:
            other = browser(services)
            other.set_cookie(COOKIE, cookie.value)
            assert other.get("/").status_code == status


@pytest.mark.parametrize("cookie", ["", "x", "eyJpbiI6dHJ1ZSwibm9uY2UiOiJ4In0.aaaa.bbbb"])
def test_a_cookie_that_is_not_ours_opens_nothing(guarded: FlaskClient, cookie: str) -> None:
    guarded.set_cookie(COOKIE, cookie)
    assert guarded.get("/").status_code == 303


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ORDERS)
def test_an_order_without_a_token_of_this_session_changes_nothing(
    web: FlaskClient, redis_client: redis.Redis, services: Services, what: str
) -> None:
    other = token(browser(services).get(HOME))
    web.get(HOME)
    before = everything(redis_client)
    for form in ({}, {"token": ""}, {"token": "x"}, {"token": other}):
        assert web.post(f"{HOME}/{what}", data=form).status_code == 403
    assert everything(redis_client) == before


def test_an_order_that_another_site_sends_is_refused_whatever_it_carries(web: FlaskClient) -> None:
    form = {"token": token(web.get(HOME))}
    for site in ("cross-site", "same-site"):
        assert web.post(f"{HOME}/train", data=form, headers={"Sec-Fetch-Site": site}).status_code == 403
    assert web.post(f"{HOME}/train", data=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_train_now_asks_for_a_run_and_the_page_says_so_once(web: FlaskClient, services: Services) -> None:
    assert order(web, "train").location == HOME
    assert services.runs.standing(UID).waiting is not None
    assert "starts in a moment" in web.get(HOME).text
    assert "starts in a moment" not in web.get(HOME).text


def test_what_waits_is_cancelled_from_the_page(web: FlaskClient, services: Services) -> None:
    order(web, "train")
    waiting = services.runs.standing(UID).waiting
    assert waiting is not None
    order(web, f"runs/{waiting.id}/cancel")
    assert services.runs.standing(UID).waiting is None


def test_promote_and_roll_back_from_the_page(web: FlaskClient, services: Services) -> None:
    publish(services.registry, "yes")
    publish(services.registry, "no", promote=False)
    order(web, "versions/2/promote")
    serving = services.registry.serving(UID)
    assert serving is not None
    assert serving.number == 2
    order(web, "rollback")
    serving = services.registry.serving(UID)
    assert serving is not None
    assert serving.number == 1


def test_what_is_refused_is_said_on_a_page_with_a_way_back(web: FlaskClient) -> None:
    answer = order(web, "versions/7/promote")
    assert answer.status_code == 404
    assert f'href="{HOME}"' in answer.text
    assert order(web, "sync").status_code == 409


# --- what pages are made of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", HOME, "/projects/9.1795333883", "/no/such/page"])
def test_every_page_forbids_what_is_not_of_this_host(web: FlaskClient, path: str) -> None:
    answer = web.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert re.findall(r'(?:src|href|action)="((?:https?:)?//[^"]*)"', answer.text) == []
    assert re.findall(r"<script>|<style|\sstyle=|\son\w+=|javascript:", answer.text) == []


def test_assets_are_kept_by_browsers_and_named_by_their_content(web: FlaskClient) -> None:
    names = re.findall(r'"(/assets/[^"]+)"', web.get("/").text)
    assert len(set(names)) == 3
    for name in names:
        answer = web.get(html.unescape(name))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    assert web.get("/assets/../__init__.py").status_code == 404


def test_a_page_that_did_not_change_is_not_sent_again(web: FlaskClient) -> None:
    first = web.get(HOME)
    assert web.get(HOME, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    order(web, "train")
    assert web.get(HOME, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_titles_and_reasons_are_text_and_never_markup(web: FlaskClient, services: Services) -> None:
    evil = "<script>alert(1)</script>"
    services.state.mark(UID, title=evil, unsupported=evil)
    services.state.decided(UID, evil, evil, 1.0)
    for path in ("/", HOME):
        text = web.get(path).text
        assert evil not in text
        assert "&lt;script&gt;" in text


def test_while_redis_is_away_the_page_says_so_and_comes_back(web: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(State, "uids", lambda _self: (_ for _ in ()).throw(Unavailable("away")))
        answer = web.get("/")
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.text
        assert "data-live" in answer.text
    assert web.get("/").status_code == 200


def test_the_page_can_be_read_without_javascript(web: FlaskClient, services: Services) -> None:
    publish(services.registry, "yes")
    text = web.get(HOME).text
    assert "of 10 annotations" in text
    assert 'data-version="v1-' not in text  # it has no score to draw
    assert re.search(r"<time [^>]*>\d+ \w{3} \d{4}, \d\d:\d\d UTC</time>", text)
