"""Settings: from the environment, and from what a project's connection form says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ml_backend.errors import BadInput, SettingsError
from ml_backend.setting_names import unknown_variables, variables
from ml_backend.settings import PromoteSettings, Refit, RetrainSettings, Settings, read_extra_params

DEFAULTS = Refit()
DOCS = Path(__file__).parent.parent / "docs"


def from_environment(**environment: str) -> Settings:
    return Settings.from_environment(environment)


# --- the environment --------------------------------------------------------------------------------------------------


def test_without_any_variable_there_are_defaults() -> None:
    settings = from_environment()
    assert (settings.host, settings.port) == ("127.0.0.1", 9090)
    assert settings.redis_url is None
    assert settings.store_url == str(Path(".ml-backend") / "versions")
    assert settings.refit == DEFAULTS
    # A project's import comes as one body; Label Studio waits 100 s for predictions, and 20 are left for the way back.
    assert (settings.max_body, settings.predict_deadline) == (64 * 1024 * 1024, 80.0)
    retrain = settings.retrain
    assert (retrain.min_annotations, retrain.every, retrain.growth) == (10, None, 0.2)
    assert (retrain.quiet, retrain.max_wait, retrain.min_interval) == (2.0, 30.0, None)
    assert (retrain.max_runs_per_day, retrain.max_staleness) == (None, None)


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("PORT", "0", "port", 0),
        ("WORKERS", "4", "web_workers", 4),
        ("THREADS", "16", "threads", 16),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("MODEL_DIR", "/versions", "store_url", "/versions"),
        ("ML_BACKEND_STORE", "s3://bucket/versions", "store_url", "s3://bucket/versions"),
        ("LABEL_STUDIO_URL", "http://localhost:8080/", "label_studio_url", "http://localhost:8080"),
        ("LABEL_STUDIO_HOST", "https://labels.example", "label_studio_url", "https://labels.example"),
        ("BASIC_AUTH_USER", "ann", "user", "ann"),
        ("ML_BACKEND_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("ML_BACKEND_DATA_DIR", "/data", "data_dir", Path("/data")),
        ("ML_BACKEND_PREDICT", "worker", "predict", "worker"),
        ("ML_BACKEND_PREDICT_DEADLINE", "40", "predict_deadline", 40.0),
        ("ML_BACKEND_RUN_TIMEOUT", "60", "run_timeout", 60.0),
        ("ML_BACKEND_KEEP_VERSIONS", "3", "keep_versions", 3),
        ("ML_BACKEND_INSECURE", "true", "insecure", True),
        ("ml_backend_tick", "1", "tick", 1.0),
    ],
)
def test_a_variable_sets_what_it_says(variable: str, value: str, name: str, expected: object) -> None:
    assert getattr(from_environment(**{variable: value}), name) == expected


@pytest.mark.parametrize("variable", ["LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"])
def test_both_names_of_the_key_work(variable: str) -> None:
    key = from_environment(**{variable: "a-token"}).label_studio_api_key
    assert key is not None
    assert key.get_secret_value() == "a-token"


@pytest.mark.parametrize(
    ("variable", "value", "group", "name", "expected"),
    [
        ("ML_BACKEND_RETRAIN_EVERY", "50", "retrain", "every", 50),
        ("ML_BACKEND_RETRAIN_MIN_ANNOTATIONS", "20", "retrain", "min_annotations", 20),
        ("ML_BACKEND_RETRAIN_MAX_RUNS_PER_DAY", "3", "retrain", "max_runs_per_day", 3),
        ("ML_BACKEND_PROMOTE_WHEN", "better", "promote", "when", "better"),
        ("ML_BACKEND_PROMOTE_MIN_GAIN", "0.01", "promote", "min_gain", 0.01),
        ("ML_BACKEND_PREDICTIONS_LIMIT", "5", "predictions", "limit", 5),
        ("ML_BACKEND_PREDICTIONS_SHOW", "false", "predictions", "show", False),
    ],
)
def test_defaults_of_all_projects_have_variables_too(
    variable: str, value: str, group: str, name: str, expected: object
) -> None:
    settings = from_environment(**{variable: value})
    assert getattr(getattr(settings, group), name) == expected
    assert getattr(getattr(settings.refit, group), name) == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "none"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("ML_BACKEND_REDIS_PREFIX", "a{b}"),
        ("ML_BACKEND_REDIS_FSYNC", "no"),
        ("ML_BACKEND_WORKER", "thread"),
        ("ML_BACKEND_LEASE", "0.1"),
        ("ML_BACKEND_RETRAIN_EVERY", "0"),
        ("ML_BACKEND_RETRAIN_EVRY", "50"),
        ("ML_BACKEND_PROMOTE_WHEN", "sometimes"),
        ("ML_BACKEND_PREDICTIONS_LIMIT", "-1"),
    ],
)
def test_a_wrong_value_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment(**{variable: value})
    assert caught.value.name == variable
    assert caught.value.reason


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://labels.example", "//labels.example"])
def test_label_studios_address_must_be_one_of_the_web(url: str) -> None:
    for variable in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"):
        with pytest.raises(SettingsError, match=f"^{variable}: must begin with http:// or https://$"):
            from_environment(**{variable: url})


def test_an_empty_variable_is_not_set() -> None:
    settings = from_environment(PORT="", REDIS_URL="", LABEL_STUDIO_URL="", ML_BACKEND_RETRAIN_EVERY="")
    assert (settings.port, settings.redis_url, settings.label_studio_url) == (9090, None, None)
    assert settings.retrain.every is None


def test_variables_of_others_are_of_no_interest() -> None:
    assert from_environment(PATH="/bin", ML_BACKEND_UNHEARD_OF="1", HOST="x", STORE="y") == from_environment()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ML_BACKEND_MAX_BODDY", "ML_BACKEND_MAX_BODDY is no setting: is ML_BACKEND_MAX_BODY meant?"),
        ("ML_BACKEND_KEEP_VERSION", "ML_BACKEND_KEEP_VERSION is no setting: is ML_BACKEND_KEEP_VERSIONS meant?"),
        ("ML_BACKEND_LABEL_STUDIO_URI", "ML_BACKEND_LABEL_STUDIO_URI is no setting: is LABEL_STUDIO_URL meant?"),
        ("ML_BACKEND_QUIET", "ML_BACKEND_QUIET is no setting"),
        ("ML_BACKEND_BATCH_SIZE", "ML_BACKEND_BATCH_SIZE is no setting"),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_what_may_have_been_meant(name: str, said: str) -> None:
    assert unknown_variables({name: "1"}) == [said]


def test_every_variable_of_the_settings_page_is_known() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([A-Z][A-Z_]*[A-Z])`", page)) - {"DEBUG", "INFO", "WARNING", "ERROR"}
    assert listed == set(variables())
    assert unknown_variables(dict.fromkeys(listed, "1")) == []


def test_a_variable_with_a_name_of_its_own_may_begin_as_the_others_do() -> None:
    both = {"ML_BACKEND_PORT": "1234", "ML_BACKEND_WEB_WORKERS": "3"}
    assert unknown_variables(both) == []
    assert (from_environment(**both).port, from_environment(**both).web_workers) == (1234, 3)


@pytest.mark.parametrize("service", ["ML_BACKEND", "ML_BACKEND_REDIS", "ML_BACKEND_PREDICTIONS"])
def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_mistake_and_changes_nothing(service: str) -> None:
    set_by_kubernetes = {
        f"{service}_SERVICE_HOST": "10.0.0.7",
        f"{service}_SERVICE_PORT": "9090",
        f"{service}_SERVICE_PORT_HTTP": "9090",
        f"{service}_PORT": "tcp://10.0.0.7:9090",
        f"{service}_PORT_9090_TCP": "tcp://10.0.0.7:9090",
        f"{service}_PORT_9090_TCP_PROTO": "tcp",
        f"{service}_PORT_9090_TCP_PORT": "9090",
        f"{service}_PORT_9090_TCP_ADDR": "10.0.0.7",
    }
    assert unknown_variables(set_by_kubernetes) == []
    assert from_environment(**set_by_kubernetes) == from_environment()


def test_the_processs_own_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")
    assert from_environment().port == 9090


def test_what_the_command_line_says_wins() -> None:
    settings = Settings.from_environment({"PORT": "1234", "ML_BACKEND_HOST": "0.0.0.0"}, port=4321, host=None)
    assert (settings.port, settings.host) == (4321, "0.0.0.0")


def test_a_wrong_value_on_the_command_line_names_the_variable_too() -> None:
    with pytest.raises(SettingsError, match=r"^PORT: "):
        Settings.from_environment({}, port=70000)


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    settings = from_environment(
        REDIS_URL="redis://:hidden@host", LABEL_STUDIO_API_KEY="hidden", BASIC_AUTH_PASS="hidden"
    )
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings)


def test_credentials_are_there_with_a_password() -> None:
    assert from_environment(BASIC_AUTH_USER="ann").credentials is None
    assert from_environment(BASIC_AUTH_PASS="s").credentials == ("label-studio", "s")
    assert from_environment(BASIC_AUTH_PASS="s", ML_BACKEND_BASIC_AUTH_EXTRA="t, u,").passwords == ("s", "t", "u")
    assert from_environment().passwords == ()


def test_it_says_what_label_studios_api_still_needs() -> None:
    assert from_environment().missing_for_label_studio == ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
    assert from_environment(LABEL_STUDIO_HOST="http://x").missing_for_label_studio == ("LABEL_STUDIO_API_KEY",)


def test_every_setting_says_what_it_is() -> None:
    def fields(model: type[BaseModel]) -> list[tuple[str, str | None]]:
        return [(f"{model.__name__}.{name}", field.description) for name, field in model.model_fields.items()]

    groups = {"retrain", "promote", "predictions"}
    described = [*fields(Settings), *fields(Refit), *fields(RetrainSettings), *fields(PromoteSettings)]
    assert [name for name, text in described if not text and name.rpartition(".")[2] not in groups] == []


# --- the connection's extra params ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "", {}, "{}", {"refit": None}])
def test_without_extra_params_the_operators_defaults_count(nothing: object) -> None:
    defaults = Refit(retrain=RetrainSettings(every=7))
    assert read_extra_params(nothing, defaults) == (defaults, {})


def test_the_designs_example_is_read() -> None:
    refit, own = read_extra_params(
        {"refit": {"retrain": {"every": 50}, "promote": {"when": "better"}, "predictions": {"limit": 1000}}}, DEFAULTS
    )
    assert (refit.retrain.every, refit.promote.when, refit.predictions.limit) == (50, "better", 1000)
    assert own == {}


def test_json_text_is_read_too() -> None:
    refit, own = read_extra_params('{"refit": {"retrain": {"every": 50}}, "epochs": 3}', DEFAULTS)
    assert (refit.retrain.every, own) == (50, {"epochs": 3})


def test_what_a_project_does_not_say_stays_as_the_operator_set_it() -> None:
    operator = from_environment(ML_BACKEND_RETRAIN_GROWTH="0.5", ML_BACKEND_RETRAIN_EVERY="9").refit
    refit, _ = read_extra_params({"refit": {"retrain": {"every": 50}, "bulk_accepted": True}}, operator)
    assert (refit.retrain.every, refit.retrain.growth, refit.bulk_accepted) == (50, 0.5, True)


def test_a_project_can_set_a_value_back_to_none() -> None:
    operator = from_environment(ML_BACKEND_RETRAIN_EVERY="9").refit
    assert read_extra_params({"refit": {"retrain": {"every": None}}}, operator)[0].retrain.every is None


def test_everything_beside_refit_is_the_models_own() -> None:
    given = {"epochs": 3, "retrain": {"every": "never"}, "score_threshold": 0.5}
    assert read_extra_params(given, DEFAULTS) == (DEFAULTS, given)


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"refit": {"retrain": {"every": 0}}}, "extra_params.refit.retrain.every", "greater than or equal to 1"),
        ({"refit": {"retrain": {"evry": 5}}}, "extra_params.refit.retrain.evry", "no such setting"),
        ({"refit": {"retain": {}}}, "extra_params.refit.retain", "no such setting"),
        ({"refit": {"retrain": 5}}, "extra_params.refit.retrain", ""),
        ({"refit": {"retrain": None}}, "extra_params.refit.retrain", ""),
        ({"refit": {"promote": {"when": "sometimes"}}}, "extra_params.refit.promote.when", "'always'"),
        ({"refit": {"serve": 0}}, "extra_params.refit.serve", ""),
        ({"refit": {"retrain": {"growth": "NaN"}}}, "extra_params.refit.retrain.growth", ""),
        ({"refit": []}, "extra_params.refit", "must be a JSON object"),
        ({"refit": "yes"}, "extra_params.refit", "must be a JSON object"),
        ([1], "extra_params", "must be a JSON object"),
        ("[1]", "extra_params", "must be a JSON object"),
        ("{not json", "extra_params", "must be a JSON object"),
        (5, "extra_params", "must be a JSON object"),
    ],
)
def test_a_wrong_key_or_value_below_refit_names_its_place(given: object, field: str, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_extra_params(given, DEFAULTS)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert caught.value.status == 400


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
nearly = st.dictionaries(
    st.sampled_from(["retrain", "promote", "predictions", "serve", "bulk_accepted"]) | st.text(max_size=4),
    json_values
    | st.dictionaries(st.sampled_from(["every", "growth", "quiet", "when", "limit", "show"]), json_values, max_size=3),
    max_size=3,
)


@given(json_values | st.fixed_dictionaries({"refit": json_values | nearly}))
def test_whatever_is_typed_is_settings_or_a_reason(given: Any) -> None:
    try:
        refit, own = read_extra_params(given, DEFAULTS)
    except BadInput as wrong:
        field = wrong.field
    else:
        field = "extra_params"
        assert isinstance(refit, Refit)
        assert "refit" not in own
    assert field.startswith("extra_params")


@given(nearly)
def test_settings_survive_their_own_json(given: dict[str, Any]) -> None:
    try:
        refit, _ = read_extra_params({"refit": given}, DEFAULTS)
    except BadInput:
        return
    assert read_extra_params(json.dumps({"refit": refit.model_dump()}), DEFAULTS)[0] == refit
