"""Promoting and rolling back by hand: what serves moves at once, with a reason, and automatic runs respect it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ml_backend.bootstrap import Services
from ml_backend.cli.app import app
from ml_backend.errors import ProjectUnknown, PromotionRefused, VersionCorrupt, VersionNotFound
from ml_backend.promotion import refused
from tests.test_training import CONFIG, UID, Switchable, annotate, run, switchable_services

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ml_backend.training.run import Trainer


@pytest.fixture
def services(redis_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    studio = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "not asked in these tests"}
    with switchable_services(redis_socket, tmp_path, monkeypatch, **studio) as made:
        yield made


@pytest.fixture
def trainer(services: Services) -> Trainer:
    made = services.trainer()
    made._before = None
    made._make_model = lambda uid, config, params: Switchable(uid, config, extra_params=params)
    return made


@pytest.fixture
def three(services: Services, trainer: Trainer) -> Services:
    """A project with three versions, of which the third serves."""
    annotate(services, *range(1, 13))
    for _ in range(3):
        run(services, trainer)
    assert serving(services) == 3
    return services


def serving(services: Services) -> int:
    alias = services.registry.alias(UID)
    assert alias is not None
    return alias.number


def decided(services: Services) -> dict[str, Any]:
    return services.state.decisions(UID, 1)[0]


# Promoting


def test_a_promoted_version_serves_and_the_decision_names_who_and_what_served_before(three: Services) -> None:
    first, third = three.registry.get(UID, 1).name, three.registry.get(UID, 3).name
    moved = three.promotion().promote(UID, 1, by="Ada")
    assert (serving(three), moved.version.name, moved.before) == (1, first, third)
    assert moved.version.status == "serving"
    assert moved.reason == f"{first} serves: promoted by Ada; before it, {third} did"
    assert (decided(three)["kind"], decided(three)["reason"]) == ("promoted", moved.reason)


@pytest.mark.parametrize("said", ["2", "v2", "name"])
def test_a_version_is_chosen_by_number_or_name(three: Services, said: str) -> None:
    three.promotion().promote(UID, three.registry.get(UID, 2).name if said == "name" else said, by="Ada")
    assert serving(three) == 2


def test_promoting_what_serves_changes_nothing_and_says_so(three: Services) -> None:
    before = decided(three)
    moved = three.promotion().promote(UID, 3, by="Ada")
    assert moved.reason == f"{moved.version.name} serves already"
    assert decided(three) == before
    assert three.promotion().rollback(UID, by="Ada").version.number == 2


def test_a_version_kept_aside_may_be_promoted(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    Switchable.spoiled = True
    run(services, trainer)
    assert serving(services) == 1
    services.promotion().promote(UID, 2, by="Ada")
    assert serving(services) == 2


def test_a_version_that_is_not_there_is_refused(three: Services) -> None:
    with pytest.raises(VersionNotFound, match="has no version 9"):
        three.promotion().promote(UID, 9, by="Ada")
    assert serving(three) == 3


def test_a_damaged_version_is_refused_and_what_served_serves_on(three: Services, tmp_path: Path) -> None:
    (tmp_path / "versions" / UID / "1" / "words.json").write_text("{}")
    with pytest.raises(VersionCorrupt, match=r"words\.json"):
        three.promotion().promote(UID, 1, by="Ada")
    assert serving(three) == 3


def test_a_project_that_nobody_knows_is_refused(services: Services) -> None:
    with pytest.raises(ProjectUnknown):
        services.promotion().promote("8.1795333883", 1, by="Ada")
    with pytest.raises(ProjectUnknown):
        services.promotion().rollback("8.1795333883", by="Ada")


def test_a_version_trained_under_another_label_config_is_promoted_with_a_warning(three: Services) -> None:
    three.state.setup(UID, CONFIG.replace('value="bad"', 'value="awful"'), None, time.time())
    reason = three.promotion().promote(UID, 1, by="Ada").reason
    assert reason.endswith("note that it was trained under another label config: 'mood' no longer has 'bad'")


# Rolling back


def test_rolling_back_serves_the_version_before_with_the_reason(three: Services) -> None:
    second, third = three.registry.get(UID, 2).name, three.registry.get(UID, 3).name
    moved = three.promotion().rollback(UID, by="Ada")
    assert (serving(three), moved.before) == (2, third)
    assert decided(three)["kind"] == "rolled back"
    assert decided(three)["reason"] == f"{second} serves: rolled back by Ada; before it, {third} did"


def test_rolling_back_ends_at_the_first_version(three: Services) -> None:
    three.promotion().rollback(UID, by="Ada")
    three.promotion().rollback(UID, by="Ada")
    assert serving(three) == 1
    with pytest.raises(VersionNotFound, match="no earlier version"):
        three.promotion().rollback(UID, by="Ada")


# What follows


@pytest.mark.parametrize("how", ["promote", "rollback"])
def test_fresh_predictions_are_asked_for_with_the_next_tick(three: Services, how: str) -> None:
    clock = three.clock()
    while clock.tick(time.time()):
        pass
    three.redis.delete(three.jobs().queue_key("predict"))
    if how == "promote":
        three.promotion().promote(UID, 2, by="Ada")
    else:
        three.promotion().rollback(UID, by="Ada")
    assert clock.tick(time.time()) == 1, "the clock is woken"
    assert three.jobs().depth("predict") == 1
    assert three.refresh_records().read(UID).version == three.registry.get(UID, 2).name


def test_the_next_run_is_compared_with_what_a_person_chose(services: Services, trainer: Trainer) -> None:
    annotate(services, *range(1, 151))
    run(services, trainer)
    run(services, trainer)
    services.promotion().rollback(UID, by="Ada")
    run(services, trainer)
    third = services.registry.get(UID, 3)
    assert third.manifest.parent == 1
    assert third.manifest.metrics.compared_on == 30
    assert serving(services) == 3


def test_a_run_that_was_compared_with_what_a_person_has_just_replaced_stays_aside(
    three: Services, trainer: Trainer
) -> None:
    Switchable.during = lambda _: three.promotion().rollback(UID, by="Ada")
    done = run(three, trainer)
    second = three.registry.get(UID, 2).name
    assert serving(three) == 2
    assert done.status == "succeeded"
    assert f"kept aside: {second} was made to serve meanwhile, and it was compared with version 3" in done.ending
    assert three.registry.get(UID, 4).status == "standby"


def test_what_a_person_chose_outlives_a_redis_that_lost_everything(three: Services, trainer: Trainer) -> None:
    Switchable.during = lambda _: three.promotion().rollback(UID, by="Ada")
    run(three, trainer)
    three.redis.flushall()
    assert serving(three) == 2


# Pins


def test_while_a_version_is_pinned_nothing_else_is_promoted_by_hand(three: Services) -> None:
    three.state.setup(UID, CONFIG, '{"refit": {"serve": 3}}', time.time())
    with pytest.raises(PromotionRefused, match="version 3 is pinned"):
        three.promotion().promote(UID, 1, by="Ada")
    with pytest.raises(PromotionRefused, match="version 3 is pinned"):
        three.promotion().rollback(UID, by="Ada")
    assert serving(three) == 3


@pytest.mark.parametrize(("pinned", "chosen", "free"), [(None, 1, True), (None, None, True), (1, 1, True)])
def test_without_a_pin_or_with_the_same_one_a_person_is_free(
    pinned: int | None, chosen: int | None, free: bool
) -> None:
    assert (refused(pinned, chosen) is None) is free


# The command line


def test_the_command_line_promotes_and_rolls_back(three: Services) -> None:
    said = CliRunner().invoke(app, ["promote", "v1"])
    assert said.exit_code == 0, said.output
    assert "promoted by ml-backend promote" in said.output
    assert serving(three) == 1
    said = CliRunner().invoke(app, ["rollback", "7"])
    assert said.exit_code == 0, said.output
    assert "rolled back by ml-backend rollback" in said.output
    assert serving(three) == 3


def test_the_command_line_says_why_not(three: Services) -> None:
    with pytest.raises(VersionNotFound, match="has no version 12"):
        CliRunner().invoke(app, ["promote", "12"], catch_exceptions=False)


# A damaged version that serves


@pytest.mark.parametrize("harm", ["a file", "the manifest"])
def test_the_next_run_heals_a_project_whose_serving_version_is_damaged(
    three: Services, trainer: Trainer, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "versions" / UID / "3"
    if harm == "a file":
        (folder / "words.json").write_text("{}")
    else:
        (folder / "manifest.json").unlink()
    done = run(three, trainer)
    assert done.status == "succeeded"
    assert "promoted: what served is damaged" in done.ending
    assert serving(three) == 4
