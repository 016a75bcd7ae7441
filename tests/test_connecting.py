"""What connecting changes in Label Studio, planned without it: one connection, one webhook, and nothing twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.connecting import Own, keep_address, kept_model, kept_secret, own
from ml_backend.connecting.addresses import bare, basic, candidates, login_of, webhook_of, with_login
from ml_backend.connecting.plan import NEEDED, Ours, authorised, plan_connection, plan_webhooks, webhooks_here
from ml_backend.errors import BadInput, RefitError
from ml_backend.label_studio import Connection, WantedConnection, Webhook
from ml_backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = ("label-studio", "s3cret/:@")
HERE = "http://backend.lan:9090"
OURS = Ours(
    HERE, LOGIN, frozenset({LOGIN[1], "old one"}), frozenset({"http://localhost:9090"}), frozenset({"v3-20261124"})
)
THEIRS = "http://somebody-elses:9090"


def connection(number: int, url: str = HERE, **fields: object) -> Connection:
    made = Connection(number, 1, url, "ml-backend", "CO", "", "", LOGIN[0], None)
    return replace(made, **fields)  # type: ignore[arg-type]


def webhook(number: int, url: str = webhook_of(HERE), **fields: object) -> Webhook:
    made = Webhook(number, 1, url, True, True, True, (), {"Authorization": basic(LOGIN)})
    return replace(made, **fields)  # type: ignore[arg-type]


def applied(webhooks: list[Webhook], connection_url: str, others: tuple[str, ...] = ()) -> list[Webhook]:
    """The webhooks after the plan was carried out."""
    left = {one.id: one for one in webhooks}
    for step in plan_webhooks(OURS, connection_url, webhooks, others):
        if step.remove is not None:
            del left[step.remove.id]
        elif step.webhook is not None:
            number = step.webhook.id or max(left, default=0) + 1
            left[number] = replace(step.webhook, id=number, project_id=1)
    return list(left.values())


URLS = st.sampled_from(
    [HERE, f"{HERE}/", with_login(HERE, LOGIN), with_login(HERE, ("x", "old one")), "http://localhost:9090", THEIRS]
)
HEADERS = st.sampled_from(
    [
        {},
        {"Authorization": basic(LOGIN)},
        {"authorization": "Basic b3RoZXI="},
        {"X-Refit-Secret": LOGIN[1]},
        {"X-Own": "1"},
    ]
)
WEBHOOKS = st.lists(
    st.builds(
        webhook,
        number=st.integers(1, 99),
        url=URLS.map(webhook_of),
        active=st.booleans(),
        send_payload=st.booleans(),
        all_actions=st.booleans(),
        actions=st.sampled_from([(), ("ANNOTATION_CREATED",), tuple(sorted(NEEDED))]),
        headers=HEADERS,
        project_id=st.sampled_from([1, 1, 1, None]),
    ),
    max_size=5,
    unique_by=lambda one: one.id,
)


@given(webhooks=WEBHOOKS, connection_url=st.sampled_from([HERE, with_login(HERE, LOGIN)]))
def test_whatever_was_there_exactly_one_webhook_brings_us_everything(
    webhooks: list[Webhook], connection_url: str
) -> None:
    left = applied(webhooks, connection_url, (THEIRS,))
    (mine,) = webhooks_here(OURS, left, (THEIRS,))
    assert bare(mine.url) == bare(webhook_of(HERE))
    assert authorised(OURS, mine)
    assert (mine.active, mine.send_payload) == (True, True)
    assert mine.all_actions or set(mine.actions) >= NEEDED


@given(webhooks=WEBHOOKS, connection_url=st.sampled_from([HERE, with_login(HERE, LOGIN)]))
def test_planned_a_second_time_nothing_changes(webhooks: list[Webhook], connection_url: str) -> None:
    left = applied(webhooks, connection_url, (THEIRS,))
    assert plan_webhooks(OURS, connection_url, left, (THEIRS,)) == []


@given(webhooks=WEBHOOKS)
def test_webhooks_of_others_and_of_the_organization_are_left_alone(webhooks: list[Webhook]) -> None:
    left = {one.id: one for one in applied(webhooks, HERE, (THEIRS,))}
    for one in webhooks:
        if one.project_id is None or bare(one.url) == bare(webhook_of(THEIRS)):
            assert left[one.id] == one


@given(
    one=st.builds(
        connection,
        number=st.integers(1, 9),
        url=URLS,
        state=st.sampled_from(["CO", "TR", "PR"]),
        basic_auth_user=st.sampled_from([None, *LOGIN]),
        extra_params=st.sampled_from([None, {}, {"refit": {"serve": 1}}]),
    ),
    params=st.sampled_from([None, {"refit": {"serve": 2}}]),
)
def test_a_connection_that_was_made_right_is_not_changed_again(one: Connection, params: object) -> None:
    step = plan_connection(OURS, [one], extra_params=params)
    if step is None:
        return
    made = (step.change or (one, step.create))[1]
    assert made is not None
    after = connection(
        one.id, made.url, title=made.title, basic_auth_user=made.login and made.login[0], extra_params=made.extra_params
    )
    assert plan_connection(OURS, [after], extra_params=params) is None


def test_a_connection_keeps_its_title_and_its_extra_params() -> None:
    one = connection(4, "http://localhost:9090", title="v3-20261124", extra_params={"refit": {"serve": 1}})
    step = plan_connection(OURS, [one])
    assert step is not None
    assert step.change == (one, WantedConnection(HERE, "v3-20261124", LOGIN, {"refit": {"serve": 1}}))


def test_a_pasted_url_with_the_credentials_in_it_is_right_as_it_is() -> None:
    pasted = connection(4, with_login(HERE, LOGIN), basic_auth_user=None)
    assert plan_connection(OURS, [pasted]) is None
    assert plan_webhooks(OURS, pasted.url, [webhook(1, webhook_of(pasted.url), headers={})]) == []


def test_an_old_password_in_the_url_makes_way_for_the_present_one() -> None:
    step = plan_connection(OURS, [connection(4, with_login(HERE, ("x", "old one")), basic_auth_user=None)])
    assert step is not None
    assert step.change is not None
    assert step.change[1] == WantedConnection(HERE, "ml-backend", LOGIN, None)


def test_a_connection_is_known_by_the_version_that_it_names_whatever_its_address() -> None:
    step = plan_connection(OURS, [connection(4, "http://moved:9090", model_version="v3-20261124")])
    assert step is not None
    assert step.change is not None


def test_a_connection_in_error_is_tried_again() -> None:
    step = plan_connection(OURS, [connection(4, state="ER", error="401 Client Error")])
    assert step is not None
    assert "401 Client Error" in step.what


def test_no_step_says_a_password() -> None:
    hooks = [webhook(1, webhook_of(with_login("http://localhost:9090", LOGIN))), webhook(2, headers={})]
    said = [step.what for step in plan_webhooks(OURS, HERE, hooks)]
    assert said
    assert not any("s3cret" in one for one in said)


@given(user=st.text(min_size=1), password=st.text())
def test_credentials_in_a_url_are_read_as_they_were_written(user: str, password: str) -> None:
    assert login_of(with_login(HERE, (user, password))) == (user, password)
    assert bare(with_login(HERE, (user, password))) == HERE


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://Backend.LAN:9090/", HERE),
        ("http://127.0.0.1:9090", "http://localhost:9090"),
        ("http://[::1]:9090/", "http://localhost:9090"),
        ("http://a:80/x/", "http://a/x"),
        ("https://a:443", "https://a"),
        ("ftp://a", ""),
        ("http://a:port", ""),
        ("nonsense", ""),
    ],
)
def test_addresses_of_one_place_are_the_same(url: str, same: str) -> None:
    assert bare(url) == same


@pytest.mark.parametrize(
    ("host", "label_studio", "first"),
    [
        ("127.0.0.1", "http://localhost:8080", "http://localhost:9090"),
        ("127.0.0.1", "http://label-studio:8080", "http://localhost:9090"),
        ("0.0.0.0", "http://localhost:8080", "http://localhost:9090"),
        ("0.0.0.0", "http://label-studio:8080", "http://ml-backend:9090"),
        ("10.0.0.7", "http://localhost:8080", "http://10.0.0.7:9090"),
    ],
)
def test_the_likeliest_address_comes_first(host: str, label_studio: str, first: str) -> None:
    assert candidates(host, 9090, label_studio, ["ml-backend", "172.18.0.4"])[0] == first


def test_a_label_studio_in_docker_is_tried_from_there_when_others_are_served() -> None:
    assert "http://host.docker.internal:9090" in candidates("0.0.0.0", 9090, "http://localhost:8080")


def test_the_operators_address_is_the_only_one() -> None:
    this = own(Settings.from_environment({"ML_BACKEND_URL": "http://ml-backend:9090/", "BASIC_AUTH_PASS": "x"}))
    assert this.addresses("http://localhost:8080") == ["http://ml-backend:9090"]
    assert this.login == ("label-studio", "x")


@pytest.mark.parametrize("url", ["backend:9090", "http://a:wrong@b:9090", "ftp://b"])
def test_an_address_that_cannot_be_right_names_the_option(url: str) -> None:
    this = Own("127.0.0.1", 9090, LOGIN, frozenset({LOGIN[1]}))
    with pytest.raises(BadInput, match="--url"):
        this.addresses("http://localhost:8080", url)


# --- the password that a data folder keeps ----------------------------------------------------------------------------


def test_all_who_ask_for_the_password_at_once_get_the_same(tmp_path: Path) -> None:
    asking = 8
    at_once = threading.Barrier(asking)

    def ask(settings: Settings) -> str:
        at_once.wait(30)
        return kept_secret(settings)

    with ThreadPoolExecutor(asking) as pool:
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            settings = Settings.from_environment({"ML_BACKEND_DATA_DIR": str(folder)})
            (kept,) = set(pool.map(ask, [settings] * asking))
            assert len(kept) >= 30
            assert own(settings).login == ("label-studio", kept)
            assert (folder / "secret").stat().st_mode & 0o777 == 0o600


def test_commands_know_the_model_that_was_started_last(tmp_path: Path) -> None:
    settings = Settings.from_environment({"ML_BACKEND_DATA_DIR": str(tmp_path)})
    assert kept_model(settings) is None
    for model in ("/models/mood.py:Mood", None):
        keep_address(settings, model)
        assert kept_model(settings) == model


def test_a_password_file_that_was_left_empty_is_filled(tmp_path: Path) -> None:
    settings = Settings.from_environment({"ML_BACKEND_DATA_DIR": str(tmp_path)})
    (tmp_path / "secret").touch()
    assert own(settings).login is None
    assert kept_secret(settings) == kept_secret(settings) != ""


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(RefitError, match="secret cannot be read"):
        kept_secret(Settings.from_environment({"ML_BACKEND_DATA_DIR": str(tmp_path)}))
