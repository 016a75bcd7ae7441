"""Variables that look like settings and are none: a misspelt one would otherwise be ignored without a word."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ml_backend.settings import SECRETS, Settings, is_of_kubernetes, own_names

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS = "ML_BACKEND_"
_LIKE = 0.75


def variables() -> list[str]:
    """Every variable that is read, as the list of the settings has it."""
    listed = [name for field in Settings.model_fields for name in _variables_of(field)]
    return [*listed, *(f"{one}_FILE" for one in SECRETS)]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is set, begins as ours do, and is no setting; with what may have been meant."""
    # Those that have another name are read by this one too.
    listed = variables()
    known = {*listed, *(f"{_OURS}{field}".upper() for field in Settings.model_fields)}
    return [
        f"{name} is no setting{_hint(name.upper(), listed)}"
        for name, value in sorted(environment.items())
        if value and name.upper().startswith(_OURS) and name.upper() not in known and not is_of_kubernetes(name, value)
    ]


def _hint(name: str, listed: list[str]) -> str:
    rests = {one.removeprefix(_OURS): one for one in listed}
    likest = difflib.get_close_matches(name.removeprefix(_OURS), rests, n=1, cutoff=_LIKE)
    return f": is {rests[likest[0]]} meant?" if likest else ""


def _variables_of(name: str) -> list[str]:
    field = Settings.model_fields[name]
    group = field.annotation
    if isinstance(group, type) and issubclass(group, BaseModel):
        return [f"{_OURS}{name}_{one}".upper() for one in group.model_fields]
    return own_names(field.validation_alias) or [f"{_OURS}{name}".upper()]
