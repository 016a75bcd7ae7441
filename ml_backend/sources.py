"""Where a model's code lies and how it is imported: a file, a folder with model.py, a module; its neighbours too."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.errors import ModelNotFound

if TYPE_CHECKING:
    from types import ModuleType

_LISTED = 6


@dataclass(frozen=True, slots=True)
class Source:
    """What a name such as ``my_model.py:Mood`` means. ``path`` is the file, else ``module`` is a dotted name.

    ``wanted`` is the class after the colon, empty where none was named.
    """

    where: str
    path: Path | None
    module: str
    wanted: str

    @property
    def stem(self) -> str:
        """The file's or module's own name."""
        return self.path.stem if self.path is not None else self.module.rpartition(".")[2]

    def text(self) -> str:
        """The source text, without importing it; empty where it cannot be had."""
        path = self.path
        if path is None:
            try:
                spec = _spec(self.module)
            except (ImportError, ValueError):
                return ""
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                return ""
            path = Path(spec.origin)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def tree(self) -> ast.Module | None:
        """What the text says, as Python reads it; None where it does not."""
        try:
            return ast.parse(self.text())
        except (SyntaxError, ValueError):
            return None


def locate(name: str) -> Source:
    """Find what ``name`` means, without importing it.

    Raises `ModelNotFound` saying what was looked for, and where.
    """
    where, colon, wanted = name.rpartition(":")
    if not colon or not (wanted.isidentifier() or wanted == ""):
        where, wanted = name, ""
    path = Path(where).expanduser()
    if path.is_dir():
        if not (path / "model.py").is_file():
            raise ModelNotFound(f"the folder {path.resolve()} has no model.py{_python_files(path)}")
        return Source(where, (path / "model.py").resolve(), "", wanted)
    if path.is_file():
        return Source(where, path.resolve(), "", wanted)
    if path.suffix == ".py" or "/" in where:
        folder = path.resolve().parent
        there = _python_files(folder) if folder.is_dir() else "; there is no such folder either"
        raise ModelNotFound(f"there is no file {path.resolve()}{there}")
    if not all(part.isidentifier() for part in where.split(".")):
        raise ModelNotFound(
            f"{name!r} is no model: give a file, a folder with model.py, file.py:Class or package:Class"
        )
    return Source(where, None, where, wanted)


def load(source: Source, *, alone: bool = False) -> ModuleType:
    """Import it. A file's neighbours can be imported by it, before installed packages, as Python's scripts can.

    A file gets a module name that is not its own, so that a user's ``model.py`` and our package ``model`` do not meet;
    ``alone`` gives it its own name, for a process in which nothing of ours needs it.
    Raises `ModelNotFound` with the reason when it cannot be imported.
    """
    if source.path is None:
        return _import_module(source)
    name = source.stem if alone else _name(source.path)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(source.path):
        return known
    spec = importlib.util.spec_from_file_location(name, source.path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(f"{source.path} is not a Python file")
    _admit(source.path.parent, first=alone)
    module = importlib.util.module_from_spec(spec)
    replaced = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if replaced is not None:
            sys.modules[name] = replaced
        raise ModelNotFound(f"{source.path} cannot be imported: {_said(error)}") from error
    return module


def classes_of(module: ModuleType, base: str) -> list[type]:
    """The classes that a module defines itself and that descend from one called ``base``, in order of writing."""
    return [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and one.__module__ == module.__name__ and descends(one, base)
    ]


def descends(one: type, base: str) -> bool:
    """Whether a class has an ancestor of that name. By name: a stand-in is as good as the class it stands for."""
    return any(ancestor.__name__ == base for ancestor in one.__mro__[1:])


def choose(module: ModuleType, source: Source, base: str) -> type:
    """The class that is meant: the one that was named, else the only one. Raises `ModelNotFound` with what is there."""
    found = classes_of(module, base)
    names = ", ".join(one.__name__ for one in found)
    if source.wanted:
        named = getattr(module, source.wanted, None)
        if inspect.isclass(named) and descends(named, base):
            return named
        if named is None:
            raise ModelNotFound(f"{source.where} has no class {source.wanted}" + (f"; it has {names}" if names else ""))
        raise ModelNotFound(f"{source.where}: {source.wanted} is not a subclass of {base}")
    # A class that another one of them builds on is a step on the way, not a second model.
    last = [one for one in found if not any(other is not one and issubclass(other, one) for other in found)]
    if len(last) == 1:
        return last[0]
    if not last:
        raise ModelNotFound(f"{source.where} holds no class that is a {base}")
    names = ", ".join(one.__name__ for one in last)
    raise ModelNotFound(
        f"{source.where} holds several models ({names}): name one, as in {source.where}:{last[0].__name__}"
    )


def _name(path: Path) -> str:
    # The same on every machine, since pickled objects name the module of their class.
    name = f"refit_{path.stem}" if path.stem.isidentifier() else "refit_model"
    taken = sys.modules.get(name)
    if taken is not None and getattr(taken, "__file__", None) != str(path):
        return f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return name


def _admit(folder: Path, *, first: bool) -> None:
    """Let modules in this folder be imported: before installed packages, but never before Python's own or ours."""
    entry = str(folder)
    if entry in sys.path:
        return
    if first:
        sys.path.insert(0, entry)
        return
    # Whoever asks for our models later must not get a user's model.py.
    importlib.import_module("model")
    installed = (at for at, one in enumerate(sys.path) if one.endswith(("site-packages", "dist-packages")))
    sys.path.insert(next(installed, len(sys.path)), entry)


def _import_module(source: Source) -> ModuleType:
    try:
        spec = _spec(source.module)
    except ModelNotFound:
        raise
    except ImportError as error:
        raise ModelNotFound(f"{source.where} cannot be imported: {_said(error)}") from error
    except ValueError:
        spec = None
    if spec is None:
        raise ModelNotFound(
            f"{source.where} is neither a file nor a folder in {Path.cwd()}, nor a module that can be imported"
        )
    try:
        return importlib.import_module(source.module)
    except Exception as error:
        raise ModelNotFound(f"{source.where} cannot be imported: {_said(error)}") from error


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module lies; the current folder is looked into last."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        found = None
    here = str(Path.cwd())
    if found is None and here not in sys.path:
        sys.path.append(here)
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
    return found


def _said(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(("ml_backend", "model.")):
        package = error.name.partition(".")[0]
        return f"{said}; install it, or run `uv run --with {package} ml-backend start …`"
    return said


def _python_files(folder: Path) -> str:
    names = sorted(one.name for one in folder.glob("*.py") if not one.name.startswith("_"))
    if not names:
        return "; there is no Python file in its folder" if folder.is_dir() else ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; in that folder there is {', '.join(names[:_LISTED])}{more}"
