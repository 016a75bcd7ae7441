"""Which model class runs: a file, a folder with model.py, ``file.py:Class``, ``package.module:Class``, or ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ml_backend.errors import ModelNotFound
from ml_backend.sources import choose, classes_of, load, locate

if TYPE_CHECKING:
    from ml_backend.backend import TrainingBackend

SHIPPED = "model.auto:AutoModel"
_BASE = "TrainingBackend"


def find_model(name: str | None) -> type[TrainingBackend]:
    """The model class that ``name`` means; without a name, the shipped model that fits the label config.

    Raises `ModelNotFound` saying what was looked for.
    """
    source = locate(name or SHIPPED)
    module = load(source)
    try:
        return cast("type[TrainingBackend]", choose(module, source, _BASE))
    except ModelNotFound:
        # `model` is our own package, whatever lies in the current folder.
        if source.module == "model" and not classes_of(module, _BASE):
            raise ModelNotFound("`model` is ml-backend's own package; for a file of yours say model.py") from None
        raise
