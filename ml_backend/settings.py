"""Every setting: what the operator sets in the environment, and what a project overrides in its extra params.

The environment is an argument (`Settings.from_environment(os.environ)`), so that reading settings stays pure.
Order of precedence: defaults, environment, the connection's extra params under the key ``refit``, the project's own
``min_annotations_to_start_training`` (the threshold alone, when above 1).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ml_backend.errors import BadInput, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MIN_ANNOTATIONS = 10
SECRETS = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "ML_BACKEND_BASIC_AUTH_EXTRA", "REDIS_URL")
"""Variables that may stand in a file, which ``<name>_FILE`` names."""
_OF_SERVICES = re.compile(
    r"ML_BACKEND_(?:\w+_)?(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
    r"=|ML_BACKEND_(?:\w+_)?PORT=(?:tcp|udp|sctp)://",
    re.IGNORECASE,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetrainSettings(_Strict):
    """When to retrain; times in seconds."""

    min_annotations: int = Field(
        DEFAULT_MIN_ANNOTATIONS, ge=1, description="Annotations that the first training needs."
    )
    every: int | None = Field(
        None,
        ge=1,
        description="Changed annotations that a later training needs at least; as many as the first, if not set.",
    )
    growth: float = Field(
        0.2,
        ge=0,
        le=10,
        description="Changed annotations that a later training needs, as a share of the last training set.",
    )
    quiet: float = Field(2.0, ge=0, le=3600, description="Seconds without a new annotation before a training begins.")
    max_wait: float = Field(
        30.0, ge=0, le=86400, description="Seconds after which a training begins although annotations keep coming."
    )
    min_interval: float | None = Field(
        None,
        ge=0,
        le=604800,
        description="Seconds between the end of a training and the next; as long as the last one took, if not set.",
    )
    max_runs_per_day: int | None = Field(
        None, ge=1, description="Automatic trainings in 24 hours, not counting Start Training; no limit, if not set."
    )
    max_staleness: float | None = Field(
        None,
        gt=0,
        description="Seconds after which changed annotations force a training, however few they are; off, if not set.",
    )


class PromoteSettings(_Strict):
    """When a new version serves."""

    when: Literal["not_worse", "better", "min_gain", "always", "never"] = Field(
        "not_worse",
        description="not_worse keeps a version aside only if it is measurably worse; better and min_gain ask for more.",
    )
    min_gain: float = Field(0.0, ge=0, le=1, description="The gain in score that min_gain asks for.")


Strategy = Literal["margin", "confidence", "priority"]


class PredictionSettings(_Strict):
    """Which predictions go back to Label Studio."""

    enabled: bool = Field(True, description="Whether fresh predictions are sent after a promotion.")
    limit: int = Field(
        1000, ge=0, le=1_000_000, description="Tasks that get a fresh prediction, the most useful first."
    )
    show: bool = Field(
        True, description="Whether annotators see predictions; false avoids anchoring and keeps the order."
    )
    strategy: Strategy = Field(
        "margin",
        description="What a prediction's rank is made of, from the next version on: the model's own score (a margin, "
        "for the shipped ones), the confidence of its least sure region, or the `priority` that the model gives. The "
        "lowest rank is handed out first.",
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        le=604800,
        description="Seconds that sending may take; as long as the last training took (at least 120), if not set.",
    )


class Refit(_Strict):
    """What a project may override: the extra params' ``refit``."""

    retrain: RetrainSettings = RetrainSettings()
    promote: PromoteSettings = PromoteSettings()
    predictions: PredictionSettings = PredictionSettings()
    serve: int | None = Field(None, ge=1, description="Pins a version's number: this one serves whatever is promoted.")
    fit: Literal["events", "policy"] = Field(
        "events",
        description="For classes with a fit of their own: events calls it for each annotation event, policy when a "
        "training is due.",
    )
    bulk_accepted: bool = Field(
        False, description="Whether bulk-accepted predictions that nobody changed are trained on."
    )


class _GivenEnvironment(EnvSettingsSource):
    """pydantic-settings' own reader, over a mapping that is handed in."""

    def __init__(self, settings: type[BaseSettings], environment: Mapping[str, str]) -> None:
        self._given = environment
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # A variable that is there and empty, as compose files leave them, is not set.
        return {
            name.lower(): value for name, value in self._given.items() if value and not is_of_kubernetes(name, value)
        }


class Settings(BaseSettings):
    """The operator's settings. Names that people know already keep their names; ours begin with ``ML_BACKEND_``."""

    model_config = SettingsConfigDict(
        env_prefix="ML_BACKEND_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    host: str = Field("127.0.0.1", description="Address the web server binds to.")
    port: int = Field(
        9090, ge=0, le=65535, validation_alias="PORT", description="Port of the web server; 0 takes a free one."
    )
    url: str | None = Field(
        None,
        description="Where Label Studio reaches this backend; ml-backend connect finds it out, if not set. Without a "
        "password on a loopback address, its host is let in beside this machine's names.",
    )
    web_workers: int = Field(2, ge=1, le=256, validation_alias="WORKERS", description="Web processes.")
    threads: int = Field(8, ge=1, le=256, validation_alias="THREADS", description="Threads of each web process.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="LOG_LEVEL", description="Least level logged."
    )
    data_dir: Path = Field(Path(".ml-backend"), description="Where the private Valkey and the versions lie.")
    redis_url: SecretStr | None = Field(
        None,
        validation_alias="REDIS_URL",
        description="A Redis or Valkey of your own (redis://, rediss:// with TLS, unix://, redis+sentinel://); "
        "a private Valkey is started, if not set.",
    )
    redis_fsync: Literal["always", "everysec"] = Field(
        "always", description="How the private Valkey keeps what it acknowledged."
    )
    redis_prefix: str = Field("mlb:", pattern=r"^[A-Za-z0-9:_-]{1,32}$", description="Prefix of every key.")
    store: str | None = Field(
        None,
        validation_alias=AliasChoices("ML_BACKEND_STORE", "MODEL_DIR"),
        description="Where versions lie: a folder, or s3://…; the folder versions of the data folder, if not set.",
    )
    label_studio_url: str | None = Field(
        None,
        validation_alias=AliasChoices("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Label Studio's address.",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="A personal access token of Label Studio.",
    )
    basic_auth_user: str | None = Field(
        None,
        validation_alias="BASIC_AUTH_USER",
        description="User that Label Studio logs in as; label-studio, if not set.",
    )
    basic_auth_pass: SecretStr | None = Field(
        None,
        validation_alias="BASIC_AUTH_PASS",
        description="Its password; ml-backend start makes one and keeps it in the data folder, if not set.",
    )
    basic_auth_extra: SecretStr | None = Field(
        None, description="More passwords that are valid, separated by commas: for changing the first without a gap."
    )
    insecure: bool = Field(False, description="Whether to serve other machines without any credentials.")
    model: str | None = Field(None, description="The model: a file, a folder, file.py:Class or package.module:Class.")
    max_body: int = Field(64 * 1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    predict: Literal["web", "worker"] = Field(
        "web", description="Where predictions are made; worker keeps models (and the GPU) out of the web processes."
    )
    predict_workers: int = Field(
        1, ge=1, le=64, description="Processes that make predictions, where they are made in workers."
    )
    predict_deadline: float = Field(
        80.0,
        gt=0,
        description="Seconds after which the rest of a batch stays without predictions. A web process does not "
        "interrupt a model's single call or load; with `ML_BACKEND_PREDICT=worker` it does not wait for it either.",
    )
    max_models: int = Field(16, ge=1, description="Models that a web process keeps in memory.")
    train_workers: int = Field(1, ge=1, le=64, description="Processes that train.")
    worker: Literal["fork", "spawn"] = Field(
        "fork", description="How a training process starts; spawn is for CUDA and macOS."
    )
    run_timeout: float = Field(6 * 3600.0, gt=0, description="Seconds that one training may take.")
    lease: float = Field(15.0, gt=0.3, description="Seconds after which a silent training counts as lost.")
    tick: float = Field(0.2, gt=0, le=60, description="Seconds between two looks of the clock.")
    sync_every: float = Field(
        86400.0, ge=60, description="Seconds between two complete syncs of a project with Label Studio."
    )
    sync_wait: float = Field(
        60.0, ge=0, le=3600, description="Seconds that a training waits for its set to be brought up to date first."
    )
    purge_after: float = Field(
        30 * 86400.0, ge=0, description="Seconds after which the training set of a deleted project is thrown away."
    )
    fit: Literal["events", "policy"] = Field(
        "events",
        description="When a class's own fit is called: for each annotation event, or when the policy says so.",
    )
    media_cache: int = Field(
        5 * 1024**3, ge=1024**2, description="Bytes that fetched media may take in the data folder; also a file's most."
    )
    media_hosts: str = Field(
        "",
        description="Hosts that media are fetched from beside Label Studio's: images.example.com,10.0.0.7:9000.",
    )
    keep_versions: int = Field(10, ge=1, description="Versions kept of each project, beside those in use.")
    retrain: RetrainSettings = RetrainSettings()
    promote: PromoteSettings = PromoteSettings()
    predictions: PredictionSettings = PredictionSettings()

    @field_validator("label_studio_url", "url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: nothing is read behind the caller's back."""
        return (init_settings,)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **overrides: Any) -> Settings:
        """Read the settings from a mapping such as ``os.environ``; ``overrides`` (by field name) win.

        Raises `SettingsError` naming the variable.
        """
        try:
            given = _GivenEnvironment(cls, environment)()
            for name, value in overrides.items():
                if value is not None:
                    # A variable under another name would win.
                    for variable in own_names(cls.model_fields[name].validation_alias):
                        given.pop(variable, None)
                    given[name] = value
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(
                cls._as_it_was_set(_variable(first["loc"]), environment), first["msg"].removeprefix("Value error, ")
            ) from None

    @classmethod
    def _as_it_was_set(cls, name: str, environment: Mapping[str, str]) -> str:
        """The name by which a variable with several was set."""
        for field in cls.model_fields.values():
            names = own_names(field.validation_alias)
            if name in names:
                return next((one for one in names if environment.get(one)), name)
        return name

    @property
    def refit(self) -> Refit:
        """The operator's defaults for every project."""
        return Refit(retrain=self.retrain, promote=self.promote, predictions=self.predictions, fit=self.fit)

    @property
    def missing_for_label_studio(self) -> tuple[str, ...]:
        """The variables that are not set and without which Label Studio's API cannot be asked."""
        given = {"LABEL_STUDIO_URL": self.label_studio_url, "LABEL_STUDIO_API_KEY": self.label_studio_api_key}
        return tuple(name for name, value in given.items() if value is None)

    @property
    def label_studio_shown(self) -> str | None:
        """Label Studio's address for people to read: without a login that may stand in it."""
        if self.label_studio_url is None:
            return None
        scheme, _, rest = self.label_studio_url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    @property
    def store_url(self) -> str:
        """Where versions lie."""
        return self.store or str(self.data_dir / "versions")

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password that callers must give; None when there are none."""
        if self.basic_auth_pass is None:
            return None
        return self.user, self.basic_auth_pass.get_secret_value()

    @property
    def user(self) -> str:
        """The user that callers log in as."""
        return self.basic_auth_user or "label-studio"

    @property
    def passwords(self) -> tuple[str, ...]:
        """Every password that callers may give; none when the server is open to everybody."""
        given = [self.basic_auth_pass.get_secret_value()] if self.basic_auth_pass else []
        if self.basic_auth_extra:
            given += [one.strip() for one in self.basic_auth_extra.get_secret_value().split(",") if one.strip()]
        return tuple(given)


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes sets this in every container, for a service whose name begins with ml-backend."""
    return _OF_SERVICES.match(f"{name}={value}") is not None


def own_names(alias: str | AliasChoices | AliasPath | None) -> list[str]:
    """The variables by which a field with names of its own is set, the first first; none for the others."""
    if isinstance(alias, AliasChoices):
        return [one for one in alias.choices if isinstance(one, str)]
    return [alias] if isinstance(alias, str) else []


def _variable(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location]
    if parts and parts[0].isupper():
        return parts[0]
    if len(parts) == 1 and (names := own_names(Settings.model_fields[parts[0]].validation_alias)):
        return names[0]
    return "ML_BACKEND_" + "_".join(parts).upper()


def read_extra_params(extra_params: object, defaults: Refit) -> tuple[Refit, dict[str, Any]]:
    """A project's settings and the model's own params from what the user typed into the connection form (fact 13).

    ``extra_params`` is None, an object or its JSON text. Everything beside ``refit`` is the model's own.
    Raises `BadInput` naming the field, for instance ``extra_params.refit.retrain.every``.
    """
    if extra_params is None or extra_params == "":
        return defaults, {}
    if isinstance(extra_params, str):
        try:
            extra_params = json.loads(extra_params)
        except ValueError:
            raise BadInput("extra_params", "must be a JSON object") from None
    if not isinstance(extra_params, dict):
        raise BadInput("extra_params", "must be a JSON object")
    own = {key: value for key, value in extra_params.items() if key != "refit"}
    given = extra_params.get("refit")
    if given is None:
        return defaults, own
    if not isinstance(given, dict):
        raise BadInput("extra_params.refit", "must be a JSON object")
    merged: dict[str, Any] = {}
    base = defaults.model_dump()
    for key, value in given.items():
        merged[key] = {**base[key], **value} if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    try:
        return Refit.model_validate({**base, **merged}, strict=False), own
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(("extra_params", "refit", *(str(part) for part in first["loc"])))
        reason = "no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise BadInput(field, reason) from None
