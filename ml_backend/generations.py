"""Which `LabelStudioMLBase` there is, and how its classes are called: the one module that knows the generations.

The first is label-studio-ml 1.0.9, which is on the package index: ``__init__(label_config, train_output)``,
``fit(tasks, workdir, event=…, data=…)``, one instance for each version. The second is 2.x, in its repository only:
``__init__(project_id, label_config)``, ``fit(event, data)``, ``get``/``set``, one instance for each request. A class of
a generation that is not installed gets our stand-in, so that it runs unchanged.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    class LabelStudioMLBase:
        """What our own code may rely on, whichever generation is installed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...


Generation = Literal[1, 2]

__all__ = ["Generation", "LabelStudioMLBase", "fit", "generation_of", "installed", "make", "predict", "provide"]

BASE = "LabelStudioMLBase"
_SECOND_NAMES = {"ModelResponse", "predict_fn", "update_fn"}
_SECOND_ATTRIBUTES = {
    "label_interface",
    "use_label_config",
    "preload_task_data",
    "extra_params",
    "get_first_tag_occurence",
}


def __getattr__(name: str) -> object:
    # Late: the first generation takes a second to import, and only whoever makes a backend needs its base class.
    if name != BASE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found: type = importlib.import_module("label_studio_ml.model").LabelStudioMLBase
    except ImportError:
        from ml_backend.stand_in import SecondBase  # noqa: PLC0415

        found = type(BASE, (SecondBase,), {})
    globals()[BASE] = found
    return found


def installed() -> Generation | None:
    """The generation of the label-studio-ml that is installed; None when it is not."""
    try:
        if importlib.util.find_spec("label_studio_ml") is None:
            return None
        return 1 if importlib.util.find_spec("label_studio_ml.response") is None else 2
    except (ImportError, ValueError):
        return None


def generation_of(tree: ast.Module | None) -> Generation:
    """Which generation a source was written against, by what it uses; the second where nothing tells."""
    first = False
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("label_studio_ml"):
            if node.module == "label_studio_ml.response" or _SECOND_NAMES & {one.name for one in node.names}:
                return 2
        elif isinstance(node, ast.FunctionDef) and node.name == "fit" and len(node.args.args) > 1:
            if node.args.args[1].arg == "event":
                return 2
            first = True
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            if node.attr in _SECOND_ATTRIBUTES or (node.attr in {"get", "set"} and isinstance(node.ctx, ast.Load)):
                return 2
            first = first or node.attr == "train_output"
        elif isinstance(node, ast.Name | ast.arg) and getattr(node, "id", getattr(node, "arg", "")) == "train_output":
            first = True
    return 1 if first else 2


def provide(generation: Generation, values: MutableMapping[tuple[str, str], str]) -> None:
    """Let ``import label_studio_ml`` find that generation in this process, with ``get`` and ``set`` over ``values``."""
    if installed() == generation:
        if generation == 2:
            importlib.import_module("label_studio_ml.model").CACHE = values  # type: ignore[attr-defined]
        return
    from ml_backend import stand_in  # noqa: PLC0415 - where it is needed

    for name in [name for name in sys.modules if name.partition(".")[0] == "label_studio_ml"]:
        del sys.modules[name]
    sys.modules.update(stand_in.modules(generation, values))


def bare_class() -> type | None:
    """The class for a file of functions marked with ``predict_fn`` or ``update_fn``; None where none is marked."""
    module = sys.modules.get("label_studio_ml.model")
    if module is None:
        return None
    base: type = module.LabelStudioMLBase
    marked = getattr(module, "_predict_fn", None) or getattr(module, "_update_fn", None)
    return base if marked or getattr(base, "functions", None) else None


def make(
    model_class: type, generation: Generation, project_id: str, label_config: str, train_output: dict[str, Any] | None
) -> Any:  # noqa: ANN401 - anybody's class
    """An instance, as that generation's own server makes it."""
    if generation == 2:
        return model_class(project_id=project_id, label_config=label_config)
    given = {
        "label_config": label_config,
        "train_output": train_output or {},
        "hostname": os.environ.get("LABEL_STUDIO_URL", ""),
        "access_token": os.environ.get("LABEL_STUDIO_API_KEY", ""),
    }
    return model_class(**_accepted(model_class, given))


def lives_for_a_version(generation: Generation) -> bool:
    """Whether an instance serves many requests, as the first generation's does; the second makes one for each."""
    return generation == 1


def fit(
    instance: Any,  # noqa: ANN401
    generation: Generation,
    event: str,
    data: dict[str, Any],
    *,
    job_id: str,
    workdir: str,
) -> Any:  # noqa: ANN401 - whatever it returns
    """Call its `fit`, as that generation's own server does."""
    if generation == 2:
        return instance.fit(event, data)
    given = {"workdir": workdir, "event": event, "data": data, "job_id": job_id}
    return instance.fit((), **_accepted(instance.fit, given))


def predict(instance: Any, tasks: list[dict[str, Any]], context: dict[str, Any] | None) -> Any:  # noqa: ANN401
    """Call its `predict`."""
    return instance.predict(tasks, **_accepted(instance.predict, {"context": context}))


def own_version(instance: Any) -> str:  # noqa: ANN401
    """The version that the class gives itself, else its name."""
    get = getattr(instance, "get", None)
    found = get("model_version") if callable(get) else None
    return str(found or getattr(instance, "model_version", None) or type(instance).__name__)


def _accepted(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function takes by name."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return given
    named = {one.name for one in parameters if one.kind is not inspect.Parameter.POSITIONAL_ONLY}
    return {name: value for name, value in given.items() if name in named}
