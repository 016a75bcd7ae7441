"""new: the skeleton of a model of one's own, with its test."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from typing import TYPE_CHECKING

from rich.markup import escape

from ml_backend.cli.terminal import Console
from ml_backend.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

_CLASS = "MyModel"


def write_skeleton(folder: Path) -> None:
    """Write ``model.py`` and ``test_model.py`` into a new folder.

    Raises `SettingsError` when one of them is there already, or the folder's name cannot become a class's.
    """
    name = class_name(folder.resolve().name)
    here = resources.files("ml_backend.cli") / "skeleton"
    texts = {
        "model.py": (here / "model.py").read_text("utf-8"),
        "test_model.py": (here / "test_model.txt").read_text("utf-8"),
    }
    for file in texts:
        if (folder / file).exists():
            raise SettingsError("folder", f"{folder / file} is there already, and is left as it is")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text.replace(_CLASS, name), encoding="utf-8")
    except OSError as error:
        raise SettingsError("folder", f"{folder} cannot be written: {error.strerror}") from error
    say = Console(soft_wrap=True, highlight=False).print
    shown = escape(str(folder))
    say(f"[bold green]{shown}[/] holds a model that works as it is: {name}. Next:\n")
    say(f"  ml-backend start {shown}    serve it, and train it from your annotations")
    say(f"  pytest {shown}              run its test")


def class_name(folder: str) -> str:
    """``MyModel`` for ``my_model``; raises `SettingsError` where nothing of a name is left."""
    words = re.findall(r"[^\W_]+", folder)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise SettingsError("folder", f"{folder!r} cannot become the name of a class: begin it with a letter")
    return name
