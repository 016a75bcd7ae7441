"""Which model class runs: a file, a folder with model.py, ``file.py:Class``, ``package.module:Class``, or ours."""

from __future__ import annotations

from typing import cast

from ml_backend.backend import TrainingBackend
from ml_backend.errors import ModelNotFound
from ml_backend.generations import BASE
from ml_backend.plain import looks_plain, plain_backend
from ml_backend.sources import choose, classes_of, load, locate

SHIPPED = "model.auto:AutoModel"
_OURS = "TrainingBackend"


def find_model(name: str | None) -> type[TrainingBackend]:
    """The model class that ``name`` means; without a name, the shipped model that fits the label config.

    A plain class (with a `fit` of its own, on `LabelStudioMLBase`) is not imported here: it lives in processes of its
    own, and this gives the adapter for it. Raises `ModelNotFound` saying what was looked for.
    """
    source = locate(name or SHIPPED)
    if name is not None and looks_plain(source):
        return plain_backend(source, name)
    module = load(source)
    ours = classes_of(module, _OURS)
    if name is not None and not ours and classes_of(module, BASE):
        return plain_backend(source, name)
    try:
        return cast("type[TrainingBackend]", choose(module, source, _OURS))
    except ModelNotFound:
        # `model` is our own package, whatever lies in the current folder.
        if source.module == "model" and not ours:
            raise ModelNotFound("`model` is ml-backend's own package; for a file of yours say model.py") from None
        raise


def find_light(name: str | None) -> type[TrainingBackend]:
    """What handles events where the model must not be imported: a class of its name that knows nothing of it.

    A plain class is told by its text alone; its adapter imports nothing here. Raises `ModelNotFound`.
    """
    source = locate(name or SHIPPED)
    if name is not None and looks_plain(source):
        return plain_backend(source, name)
    return type(source.wanted or source.stem, (TrainingBackend,), {})
