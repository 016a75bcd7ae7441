"""TrainingBackend, the class that model authors subclass: fit() handles one event, train() is what a worker runs."""

from __future__ import annotations

import copy
import functools
import pkgutil
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from ml_backend.examples import media_path
from ml_backend.generations import LabelStudioMLBase
from ml_backend.label_config import Control, parse_label_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ml_backend.examples import Fetch, TrainingRun, TrainingSet

Answer = dict[str, Any]


class TrainingBackend(LabelStudioMLBase):
    """A Label Studio model that retrains by itself. Write `train`, `load` and `predict`; the rest is done.

    ``label_config`` (XML), ``controls`` (its control tags), ``extra_params`` (the model's own settings from the
    connection form) and ``model_version`` (the name of the version that was loaded, or None) are there in all three.
    """

    preload: ClassVar[tuple[str, ...]] = ()
    """Heavy modules that `train` imports late (``("sklearn.svm",)``): a training process loads them once, ahead."""

    _fetch: Fetch | None = None

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        *,
        on_event: Callable[[str, dict[str, Any]], Answer] | None = None,
        extra_params: Mapping[str, Any] | None = None,
        **_other: Any,
    ) -> None:
        # The official constructors parse the label config with heavy libraries and open a cache file: nothing of that
        # is needed here, and this runs where an annotator waits.
        self.project_id = project_id or ""
        self._label_config = label_config or ""
        self._controls: tuple[Control, ...] | None = None
        self._extra_params: dict[str, Any] = dict(extra_params or {})
        self._model_version: str | None = None
        self._on_event = on_event
        self._holds_a_version = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let `load` and `predict` know where they are called (see `_anywhere`)."""
        super().__init_subclass__(**kwargs)
        if "load" in vars(cls):
            cls.load = _remembering(cls.load)  # type: ignore[method-assign]
        if "predict" in vars(cls):
            cls.predict = _anywhere(cls.predict)  # type: ignore[method-assign]

    # --- what a model author writes -----------------------------------------------------------------------------------

    def train(self, data: TrainingSet, run: TrainingRun) -> dict[str, float] | None:
        """Train on ``data`` and write the version's files below ``run.directory``; return metrics to show, if any.

        Raise `NotTrainable` when the data cannot train this model (one class only, for instance).
        """
        raise NotImplementedError

    def load(self, directory: Path) -> None:
        """Read the files that `train` wrote; called once per version and process."""
        raise NotImplementedError

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401 - both generations
        """One prediction for each task: ``{"result": [regions], "score": rank}``, a list of such, or an empty list."""
        raise NotImplementedError

    def check(self, label_config: str) -> str | None:  # noqa: ARG002 - for subclasses
        """Why this label config is not supported; None when it is."""
        return None

    def evaluate(self, data: TrainingSet) -> dict[str, float]:  # noqa: ARG002 - for subclasses
        """Scores of the loaded version on ``data``, for control tags that no scorer is shipped for."""
        return {}

    # --- what a model author gets -------------------------------------------------------------------------------------

    @property
    def label_config(self) -> str:
        """The project's label config, as XML."""
        return self._label_config

    @property
    def controls(self) -> tuple[Control, ...]:
        """The control tags of the label config, in document order. Raises `BadInput` when it is not XML."""
        if self._controls is None:
            self._controls = parse_label_config(self._label_config) if self._label_config else ()
        return self._controls

    @property
    def extra_params(self) -> dict[str, Any]:
        """What stands beside ``refit`` in the connection's extra params: the model's own settings."""
        return self._extra_params

    @property
    def model_version(self) -> str | None:
        """The name of the loaded version, as Label Studio sees it; None before one is loaded."""
        return self._model_version

    def path(self, task: dict[str, Any], key: str) -> Path:
        """The local file behind the media URL in a task's data under ``key`` (``image``, ``$image``, ``pages[0]``).

        For `predict`; `train` has `Example.path`. It is fetched from Label Studio or a host that the operator lists,
        and kept in a cache: read it now, it may be gone two minutes later. Raises `MediaError`, a `LookupError` whose
        ``kind`` says why.
        """
        return media_path(self._fetch, task, key)

    def fetching(self, fetch: Fetch) -> Self:
        """Have `path` fetch with this."""
        self._fetch = fetch
        return self

    def loaded(self, directory: Path, version: str) -> Self:
        """Load a version and take its name."""
        self.load(directory)
        self._model_version = version
        return self

    def for_config(self, label_config: str) -> Self:
        """The same loaded model under another label config; shares the weights."""
        if label_config == self._label_config or not label_config:
            return self
        other = copy.copy(self)
        other._label_config = label_config
        other._controls = None
        return other

    # --- what Label Studio calls --------------------------------------------------------------------------------------

    def fit(self, *args: Any, event: str | None = None, data: dict[str, Any] | None = None, **_other: Any) -> Answer:
        """Handle one event: record it, decide, and ask for a training when it is time. Trains nothing itself.

        Both generations' ways of calling work: ``fit(event, data)`` (2.x) and ``fit(tasks, event=…, data=…)`` (1.0.9).
        Returns ``{"status", "reason"}`` and ``"job"`` when a run waits for it. Raises `BadInput` naming a field of the
        payload, `Unavailable` when Redis does not answer, `SettingsError` under another server without ``REDIS_URL``.
        """
        if event is None:
            event, data = args[0], args[1] if len(args) > 1 else {}
        if self._on_event is None:
            return _services(type(self)).take_event(event, data or {})
        return self._on_event(event, data or {})

    # --- under label-studio-ml's own server ---------------------------------------------------------------------------

    def process_event(self, event: str, data: dict[str, Any], job_id: str, additional_params: Any) -> Answer:  # noqa: ARG002, ANN401 - theirs
        """How that server hands events over, in a process of its own: each of them goes the way of `fit`."""
        return self.fit(event, data)


class Elsewhere(Protocol):
    """What a class finds when somebody else's server made its instance."""

    def take_event(self, event: str, data: dict[str, Any], /) -> Answer:
        """Handle one event."""

    def predict_for(
        self,
        project_id: str,
        tasks: list[dict[str, Any]],
        label_config: str,
        context: dict[str, Any] | None,
        /,
    ) -> list[list[dict[str, Any]]]:
        """Predictions of the version that serves."""


def _services(model_class: type[TrainingBackend]) -> Elsewhere:
    # By name: that server knows the class alone, and the composition root is above this floor.
    found: Elsewhere = pkgutil.resolve_name("ml_backend.bootstrap:under_another_server")(model_class)
    return found


def _remembering(load: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(load)
    def loading(self: TrainingBackend, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        self._holds_a_version = True

    return loading


def _anywhere(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Under label-studio-ml's own server, `predict` of an instance that holds no version asks the one that serves.

    That server makes instances by itself, and knows nothing of versions.
    """

    @functools.wraps(predict)
    def predicting(
        self: TrainingBackend, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:  # noqa: ANN401 - the contract's
        if self._holds_a_version or not _under_another_server():
            return predict(self, tasks, context=context, **kwargs)
        return _services(type(self)).predict_for(self.project_id, tasks, self.label_config, context)

    return predicting


def _under_another_server() -> bool:
    # Nothing of ours imports it, and everything that is served by it does.
    return "label_studio_ml.api" in sys.modules
