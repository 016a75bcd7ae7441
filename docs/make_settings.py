"""Writes docs/settings.md from the settings classes: ``python docs/make_settings.py``."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from ml_backend.settings import (
    SECRETS,
    PredictionSettings,
    PromoteSettings,
    Refit,
    RetrainSettings,
    Settings,
    own_names,
)

TARGET = Path(__file__).with_name("settings.md")
if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

GROUPS: dict[str, type[BaseModel]] = {
    "retrain": RetrainSettings,
    "promote": PromoteSettings,
    "predictions": PredictionSettings,
}
HEAD = """# Settings

<!-- Made by docs/make_settings.py from the settings classes: change those. -->

Three places, the later one wins:

1. the environment, for all projects;
2. the connection's *extra params* in Label Studio, under the key `refit`, for one project;
3. the project's own *min annotations to start training*, for the first threshold, when it is above 1.

What a command line says (`--port`, `--data-dir`) wins over the environment. An empty variable is not set. One
that begins with `ML_BACKEND_` and is no setting is told on the terminal, with what may have been meant.

## Of the installation

| Variable | Default | What it is |
| --- | --- | --- |
"""
PROJECT = """
## Of a project

Each that has a variable can be set for all projects by it, and each for one project in its extra params:

```json
{"refit": {"retrain": {"every": 50}, "promote": {"when": "better"}, "predictions": {"limit": 500}}}
```

A key that does not exist is refused when the connection is saved, with its name in the message; keys beside `refit` are
your model's own.
"""


def default_of(field: FieldInfo) -> str:
    """As somebody would type it."""
    value = field.default
    if value is None or value is PydanticUndefined:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def variables_of(name: str, field: FieldInfo) -> list[str]:
    """Every variable that sets it, the first first."""
    return own_names(field.validation_alias) or [f"ML_BACKEND_{name.upper()}"]


def choices_of(annotation: object) -> str:
    """The values of a Literal, also of an optional one."""
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(f"`{one}`" for one in typing.get_args(annotation))
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        return next((found for one in typing.get_args(annotation) if (found := choices_of(one))), "")
    return ""


def described(field: FieldInfo) -> str:
    """Its description, with the values that it takes."""
    choices = choices_of(field.annotation)
    text = (field.description or "").replace("|", "\\|")
    return f"{text} {choices[0].upper()}{choices[1:]}." if choices else text


def rendered() -> str:
    """The whole page."""
    lines = [HEAD.rstrip("\n")]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            continue
        variables = variables_of(name, field)
        shown = ", ".join(f"`{one}`" for one in variables)
        secret = field.annotation is SecretStr or SecretStr in typing.get_args(field.annotation)
        told = " A secret." if secret and not any(one in SECRETS for one in variables) else ""
        told = (
            f" Or `{next(one for one in variables if one in SECRETS)}_FILE`, a file that holds it."
            if (any(one in SECRETS for one in variables))
            else told
        )
        lines.append(f"| {shown} | {default_of(field)} | {described(field)}{told} |")
    lines.append(PROJECT.rstrip("\n"))
    for group, model in GROUPS.items():
        lines += ["", f"### `{group}`", "", "| Key | Variable | Default | What it is |", "| --- | --- | --- | --- |"]
        for name, field in model.model_fields.items():
            variable = f"ML_BACKEND_{group}_{name}".upper()
            lines.append(f"| `{name}` | `{variable}` | {default_of(field)} | {described(field)} |")
    lines += ["", "### Beside these", "", "| Key | Variable | Default | What it is |", "| --- | --- | --- | --- |"]
    for name, field in Refit.model_fields.items():
        if name not in GROUPS:
            variable = f"`{variables_of(name, field)[0]}`" if name in Settings.model_fields else "none"
            lines.append(f"| `{name}` | {variable} | {default_of(field)} | {described(field)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
