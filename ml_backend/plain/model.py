"""A plain class as the rest of the product sees it: a `TrainingBackend` whose model lives in a process of its own."""

from __future__ import annotations

import ast
import logging
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from ml_backend.backend import TrainingBackend
from ml_backend.errors import ModelNotFound
from ml_backend.generations import BASE
from ml_backend.plain.process import PlainDied, PlainProcess

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend.sources import Source

log = logging.getLogger(__name__)

NOTE = "plain.json"
_PREDICT_S = 100.0


class PlainBackend(TrainingBackend):
    """Serves what the class's own `fit` left on disk: `load` starts a fresh process, whose globals are made anew."""

    model_name: ClassVar[str]
    """What `ml-backend start` was given."""

    def load(self, directory: Path) -> None:
        """Start a process with the class in it. Raises `PlainFailed` when it cannot be imported or made."""
        self._held = _Held(hello(self, orjson.loads((directory / NOTE).read_bytes())))

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any) -> Any:  # noqa: ANN401 - the contract's
        """Ask that process."""
        return self._held.process().predict(tasks, self.label_config, context, timeout_s=_PREDICT_S)

    def close(self) -> None:
        """End the process, if there is one; whoever asks afterwards starts another."""
        if (held := getattr(self, "_held", None)) is not None:
            held.close()


class _Held:
    """The process of a loaded version, started again when it died. Copies of a model share it."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self._hello = hello
        self._lock = threading.Lock()
        self._process = PlainProcess(hello)

    def process(self) -> PlainProcess:
        with self._lock:
            if not self._process.alive:
                log.warning("project %s: the prediction process ended, starting another", self._hello["uid"])
                try:
                    self._process = PlainProcess(self._hello)
                except PlainDied as error:
                    log.error("project %s: it ended again: %s", self._hello["uid"], error)  # noqa: TRY400
                    raise
            return self._process

    def close(self) -> None:
        with self._lock:
            self._process.close()


def hello(model: PlainBackend, note: dict[str, Any]) -> dict[str, Any]:
    """What a process of the class is told first."""
    return {
        "model": model.model_name,
        "uid": note["uid"],
        "label_config": model.label_config,
        "params": note.get("params") or model.extra_params,
        "output": note.get("output"),
    }


def looks_plain(source: Source) -> bool:
    """Whether a source is a plain class's, by what it imports: it is never imported here to find out."""
    tree = source.tree()
    roots = set()
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            roots |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots.add((node.module or "").partition(".")[0])
    return "label_studio_ml" in roots and "ml_backend" not in roots


def plain_backend(source: Source, name: str) -> type[PlainBackend]:
    """The adapter for a plain class; ``name`` is what `find_model` was given. Raises `ModelNotFound` for several."""
    classes = _classes(source)
    if not source.wanted and len(classes) > 1:
        raise ModelNotFound(
            f"{source.where} holds several models ({', '.join(classes)}): name one, as in {source.where}:{classes[0]}"
        )
    called = source.wanted or next(iter(classes), source.stem)
    return type(called, (PlainBackend,), {"model_name": name})


def _classes(source: Source) -> list[str]:
    tree = source.tree()
    return [
        node.name
        for node in (tree.body if tree is not None else ())
        if isinstance(node, ast.ClassDef) and any(ast.unparse(one).endswith(BASE) for one in node.bases)
    ]
