"""Which model class runs: a file, a folder with model.py, ``file.py:Class``, ``package.module:Class``, or ours."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.backend import TrainingBackend
from ml_backend.errors import ModelNotFound

if TYPE_CHECKING:
    from types import ModuleType

SHIPPED = "model.auto:AutoModel"


def find_model(name: str | None) -> type[TrainingBackend]:
    """The model class that ``name`` means; without a name, the shipped model that fits the label config.

    Raises `ModelNotFound` saying what was looked for.
    """
    where, _, wanted = (name or SHIPPED).partition(":")
    path = Path(where).expanduser()
    if path.suffix == ".py" or path.is_dir():
        module = _from_file(path / "model.py" if path.is_dir() else path)
    else:
        module = _from_package(where)
    if wanted:
        found = getattr(module, wanted, None)
        if not (inspect.isclass(found) and issubclass(found, TrainingBackend)):
            raise ModelNotFound(f"{where} has no class {wanted} that is a TrainingBackend")
        return found
    return _only_class(module, where)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    path = path.resolve()
    # A name of its own keeps a user's model.py beside our package model, and its neighbours importable.
    name = f"_refit_model_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(f"{path} is not a Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelNotFound(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelNotFound(f"{name} is neither a file, a folder nor a module that can be imported: {error}") from error


def _only_class(module: ModuleType, where: str) -> type[TrainingBackend]:
    found = [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, TrainingBackend) and one.__module__ == module.__name__
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelNotFound(f"{where} holds no class that is a TrainingBackend")
    names = ", ".join(sorted(one.__name__ for one in found))
    raise ModelNotFound(f"{where} holds several models ({names}): name one, as in {where}:{found[0].__name__}")
