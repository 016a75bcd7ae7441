"""Stand-ins for label-studio-ml, written by us: the public interface of both generations, where one is not installed.

Made for classes that were written against it: `modules` gives what ``import label_studio_ml…`` shall find. Values that
a class gets and sets lie in whatever mapping is handed in. Heavy imports are late: our own base class lives here too.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import time
from collections import OrderedDict
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    Values = MutableMapping[tuple[str, str], str]

_CONFIG = "label_studio_sdk._extensions.label_studio_tools.core.label_config"
_IO = "label_studio_sdk._extensions.label_studio_tools.core.utils.io"
DATA_UNDEFINED_NAME = "$undefined$"
_TOKEN_S = 120.0  # what is given for a personal access token lives five minutes


def _late(module: str, name: str) -> Any:  # noqa: ANN401 - another package's
    # The SDK takes seconds to import, and few classes need all of it.
    import importlib  # noqa: PLC0415

    return getattr(importlib.import_module(module), name)


def _address() -> str | None:
    return os.environ.get("LABEL_STUDIO_URL") or os.environ.get("LABEL_STUDIO_HOST")


def _key() -> str | None:
    return os.environ.get("LABEL_STUDIO_API_KEY") or os.environ.get("LABEL_STUDIO_ACCESS_TOKEN")


def local_path(url: str, **options: Any) -> str:
    """The local file behind a media URL; Label Studio's address and key come from the environment."""
    options = {name: value for name, value in options.items() if value is not None}
    options.setdefault("hostname", _address())
    options.setdefault("access_token", _key())
    return str(_late(_IO, "get_local_path")(url, **options))


class SecondBase:
    """`LabelStudioMLBase` as 2.x has it: one instance for each request, values that outlive it, ``setup()``."""

    INITIAL_MODEL_VERSION = "0.0.1"
    TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")
    values: ClassVar[Values] = {}
    functions: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        self._exchanged = ("", -math.inf)
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.model_version:
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    def setup(self) -> None:
        """For subclasses: set the version's name, for instance."""

    def use_label_config(self, label_config: str) -> None:
        """Take a label config as the one in force."""
        if self.get("label_config") != label_config:
            self.set("label_config", label_config)
        self._interface: Any = None
        self._config = label_config

    @property
    def label_interface(self) -> Any:  # noqa: ANN401 - the SDK's
        """The SDK's view of the label config."""
        if self._interface is None:
            self._interface = _late("label_studio_sdk.label_interface", "LabelInterface")(config=self._config)
        return self._interface

    @property
    def label_config(self) -> str | None:
        """The label config, as XML."""
        return self.get("label_config")

    @property
    def parsed_label_config(self) -> Any:  # noqa: ANN401 - the SDK's
        """The label config as nested dictionaries."""
        return _late(_CONFIG, "parse_config")(self.label_config)

    def get(self, key: str) -> str | None:
        """A value that was set before, by whichever process; None when there is none."""
        return self.values.get((str(self.project_id), key))

    def set(self, key: str, value: str) -> None:
        """Keep a text for this project; everybody sees it at once."""
        self.values[str(self.project_id), key] = value

    def has(self, key: str) -> bool:
        """Whether it was set."""
        return (str(self.project_id), key) in self.values

    def set_extra_params(self, extra_params: str) -> None:
        """Keep what was typed into the connection form."""
        self.set("extra_params", extra_params)

    @property
    def extra_params(self) -> Any:  # noqa: ANN401 - whatever was typed
        """What was typed into the connection form."""
        return json.loads(self.get("extra_params") or "{}")

    @property
    def model_version(self) -> str | None:
        """The version's name."""
        return self.get("model_version")

    def bump_model_version(self) -> str:
        """Raise the middle number of a version such as 0.1.0."""
        major, _, rest = str(self.model_version).partition(".")
        raised = f"{major}.{int(rest.partition('.')[0] or 0) + 1}.0"
        self.set("model_version", raised)
        return raised

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        """What the function marked with ``predict_fn`` says."""
        function = self.functions.get("predict")
        return function(tasks, context, helper=self, **kwargs) if function else []

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> Any:  # noqa: ANN401
        """What the function marked with ``update_fn`` does."""
        function = self.functions.get("update")
        return function(event, data, helper=self, **kwargs) if function else None

    def process_event(self, event: str, data: dict[str, Any], job_id: str, additional_params: dict[str, Any]) -> Any:  # noqa: ANN401
        """`fit`, for the events that train."""
        return self.fit(event, data, job_id=job_id, **additional_params) if event in self.TRAIN_EVENTS else None

    def get_local_path(
        self,
        url: str,
        project_dir: str | None = None,
        ls_host: str | None = None,
        ls_access_token: str | None = None,
        task_id: int | None = None,
        **kwargs: Any,
    ) -> str:
        """The local file behind a media URL."""
        token = ls_access_token or self.get_label_studio_access_token()
        return local_path(url, project_dir=project_dir, hostname=ls_host, access_token=token, task_id=task_id, **kwargs)

    def get_label_studio_access_token(self) -> str | None:
        """What Label Studio takes beside a request: a personal access token is only what one is exchanged for.

        Raises what the exchange raises, `WrongToken` for instance.
        """
        from ml_backend.label_studio.tokens import kind_of  # noqa: PLC0415 - for classes that fetch files alone

        url, key = _address(), _key()
        if not url or not key or kind_of(key) != "personal":
            return key
        token, until = self._exchanged
        if time.monotonic() >= until:
            with _late("ml_backend.label_studio", "LabelStudioApi")(url, key, patience_s=0.0) as label_studio:
                token = label_studio.authorization()["Authorization"].partition(" ")[2]
            self._exchanged = token, time.monotonic() + _TOKEN_S
        return token

    def preload_task_data(self, task: dict[str, Any], value: Any = None, read_file: bool = True) -> Any:  # noqa: ANN401 - theirs
        """Task data with the URLs in it replaced by the text behind them, or by local paths."""
        if isinstance(value, dict):
            return {key: self.preload_task_data(task, one, read_file) for key, one in value.items()}
        if isinstance(value, list):
            return [self.preload_task_data(task, one, read_file) for one in value]
        if not isinstance(value, str) or not value.startswith(_ADDRESSES) or any(letter.isspace() for letter in value):
            return value
        path = self.get_local_path(value, task_id=task.get("id"))
        if not read_file:
            return path
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a string is what get_local_path gives
            return file.read()

    def get_first_tag_occurence(
        self,
        control_type: str | tuple[str, ...],
        object_type: str | tuple[str, ...],
        name_filter: Callable[[str], bool] | None = None,
        to_name_filter: Callable[[str], bool] | None = None,
    ) -> Any:  # noqa: ANN401 - the SDK's
        """(control's name, object's name, task data key) of the first tags of these types."""
        return self.label_interface.get_first_tag_occurence(
            control_type=control_type, object_type=object_type, name_filter=name_filter, to_name_filter=to_name_filter
        )

    def build_label_map(self, tag_name: str, names: list[str]) -> dict[str, str]:
        """From a model's own names to the labels: by ``predicted_values``, else by the same name in any case."""
        found: dict[str, str] = {}
        lower = {name.lower(): name for name in names}
        for label, tag in (self.label_interface.get_control(tag_name).labels_attrs or {}).items():
            given = [one.strip() for one in tag.attr.get("predicted_values", "").split(",")]
            known = [one for one in given if one in names]
            if not known and label.lower() in lower:
                known = [label if label in names else label.lower()]
            found.update(dict.fromkeys(known, label))
        return found


_ADDRESSES = ("http://", "https://", "s3://", "gs://", "azure-blob://", "/data/", "upload/", "/upload/")


class FirstBase:
    """`LabelStudioMLBase` as 1.x has it: an instance for each version, made from what its `fit` returned."""

    TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "PROJECT_UPDATED")

    def __init__(self, label_config: str | None = None, train_output: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        self.label_config = label_config
        self.parsed_label_config = _late(_CONFIG, "parse_config")(label_config) if label_config else {}
        self.train_output = train_output or {}
        self.hostname = kwargs.get("hostname", "")
        self.access_token = kwargs.get("access_token", "")

    def predict(self, tasks: list[dict[str, Any]], **kwargs: Any) -> Any:  # noqa: ANN401
        """For subclasses."""
        raise NotImplementedError

    def fit(self, tasks: Any, workdir: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """For subclasses."""
        return {}

    def process_event(self, event: str, data: dict[str, Any], job_id: str, additional_params: dict[str, Any]) -> Any:  # noqa: ANN401
        """`fit`, for the events that train."""
        if event not in self.TRAIN_EVENTS:
            return None
        return self.fit((), event=event, data=data, job_id=job_id, **additional_params)

    def get_local_path(self, url: str, project_dir: str | None = None) -> str:
        """The local file behind a media URL."""
        return local_path(
            url, project_dir=project_dir, hostname=self.hostname or None, access_token=self.access_token or None
        )


def modules(generation: int, values: Values) -> dict[str, ModuleType]:
    """What ``label_studio_ml`` and its modules are for a class of that generation."""
    root, model, utils = (
        ModuleType(name) for name in ("label_studio_ml", "label_studio_ml.model", "label_studio_ml.utils")
    )
    root.__path__ = []
    for helper in (
        get_single_tag_keys,
        get_first_tag_keys,
        is_skipped,
        get_choice,
        get_image_local_path,
        get_image_size,
        match_labels,
        InMemoryLRUDictCache,
    ):
        setattr(utils, helper.__name__, helper)
    found = {one.__name__: one for one in (root, model, utils)}
    utils.DATA_UNDEFINED_NAME = DATA_UNDEFINED_NAME  # type: ignore[attr-defined]
    if generation == 1:
        model.LabelStudioMLBase = FirstBase  # type: ignore[attr-defined]
    else:
        functions: dict[str, Callable[..., Any]] = {}
        base = type("LabelStudioMLBase", (SecondBase,), {"values": values, "functions": functions})
        response = found["label_studio_ml.response"] = ModuleType("label_studio_ml.response")
        for module in (response, model):
            module.ModelResponse = _model_response()  # type: ignore[attr-defined]
        model.LabelStudioMLBase = base  # type: ignore[attr-defined]
        model.predict_fn = _marks(functions, "predict")  # type: ignore[attr-defined]
        model.update_fn = _marks(functions, "update")  # type: ignore[attr-defined]
    for module in found.values():
        if module is not root:
            setattr(root, module.__name__.rpartition(".")[2], module)
    return found


def _marks(functions: dict[str, Callable[..., Any]], name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        functions[name] = function
        return function

    return mark


def _model_response() -> type:
    from pydantic import BaseModel, ConfigDict, field_validator  # noqa: PLC0415 - for classes of the second generation

    class ModelResponse(BaseModel):
        """Predictions with one version for all of them."""

        model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True)

        model_version: str | None = None
        predictions: list[Any]

        @field_validator("predictions")
        @classmethod
        def _read(cls, given: list[Any]) -> list[Any]:
            # The SDK's own type, as theirs has it; late, so that a class which does not answer yet starts at once.
            read = _late("label_studio_sdk.label_interface.objects", "PredictionValue").model_validate
            return [[read(each) for each in one] if isinstance(one, list) else read(one) for one in given]

        def has_model_version(self) -> bool:
            """Whether it names one."""
            return bool(self.model_version)

        def update_predictions_version(self) -> None:
            """Give the version to each prediction that has none."""
            for several in self.predictions:
                for one in several if isinstance(several, list) else [several]:
                    one.model_version = one.model_version or self.model_version

        def set_version(self, version: str) -> None:
            """Take a version, for each prediction too."""
            self.model_version = version
            self.update_predictions_version()

    return ModelResponse


# --- what label_studio_ml.utils has -----------------------------------------------------------------------------------


def get_single_tag_keys(parsed: dict[str, Any], control_type: str, object_type: str) -> tuple[str, str, str, list[str]]:
    """(control, object, task data key, labels) of a config with one control of that type over one such object."""
    assert len(parsed) == 1, "the label config must have exactly one control tag"  # noqa: S101 - AssertionError is theirs
    (name, control), *_ = parsed.items()
    assert control["type"] == control_type, f"it has {control['type']}, and {control_type} is needed"  # noqa: S101
    assert [one["type"] for one in control["inputs"]] == [object_type], f"it must annotate one {object_type}"  # noqa: S101
    return name, control["to_name"][0], control["inputs"][0]["value"], control["labels"]


def get_first_tag_keys(parsed: dict[str, Any], control_type: str, object_type: str) -> tuple[str | None, Any]:
    """(name, control) of the first control of that type over such an object; (None, None) without one."""
    for name, control in parsed.items():
        if control["type"] == control_type and any(one["type"] == object_type for one in control["inputs"]):
            return name, control
    return None, None


def is_skipped(task: dict[str, Any]) -> bool:
    """Whether its only annotation was skipped."""
    annotations = task["annotations"]
    return len(annotations) == 1 and bool(annotations[0].get("skipped") or annotations[0].get("was_cancelled"))


def get_choice(task: dict[str, Any]) -> str:
    """The first choice of its first annotation."""
    return str(task["annotations"][0]["result"][0]["value"]["choices"][0])


def get_image_local_path(url: str, **options: Any) -> str:
    """The local file behind an image's URL."""
    known = {"project_dir", "cache_dir", "image_dir"}
    return local_path(url, **{name: value for name, value in options.items() if name in known})


def get_image_size(path: str) -> tuple[int, int]:
    """(width, height) in pixels."""
    with _late("PIL.Image", "open")(path) as image:
        return int(image.size[0]), int(image.size[1])


def match_labels(text: str, labels: list[str]) -> list[str]:
    """For each line of a text the label that is most like it."""
    return [
        max(labels, key=lambda label: difflib.SequenceMatcher(None, line, label).ratio()) for line in text.splitlines()
    ]


class InMemoryLRUDictCache:
    """At most ``capacity`` values; the one that nobody asked for the longest goes first."""

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self.cache: OrderedDict[Any, Any] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self.cache

    def get(self, key: Any) -> Any:  # noqa: ANN401 - anything
        """The value, or None."""
        if key in self.cache:
            self.cache.move_to_end(key)
        return self.cache.get(key)

    def put(self, key: Any, value: Any) -> None:  # noqa: ANN401 - anything
        """Keep it."""
        self.cache[key] = value
        self.cache.move_to_end(key)
        if len(self.cache) > self.capacity:
            self.cache.popitem(last=False)
