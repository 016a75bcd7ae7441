"""What models answer and say, through JSON and back: their values and texts become what JSON can hold. Pure."""

from __future__ import annotations

from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def jsonable(value: object) -> Any:  # noqa: ANN401 - JSON
    """The value with nothing but JSON's own types in it, NumPy's and pydantic's among them turned into these.

    Raises `TypeError` for what cannot be sent.
    """
    return orjson.loads(orjson.dumps(value, default=_dumped, option=_OPTIONS))


def sayable(text: str) -> str:
    """The text without lone surrogates, which messages of exceptions may hold (file names) and JSON cannot."""
    return text.encode("utf-8", "replace").decode()


def _dumped(value: object) -> object:
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(exclude_none=True)
    if callable(scalar := getattr(value, "tolist", None)):
        return scalar()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")
