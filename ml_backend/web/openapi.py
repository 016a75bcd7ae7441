"""The OpenAPI 3.1 document of the JSON API, made from the same table and the same views as the API itself."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from pydantic.json_schema import models_json_schema

from ml_backend import __version__
from ml_backend.overview import views
from ml_backend.uids import PATTERN
from ml_backend.web.api import CALLS, LIMIT, MOST, PREFIX, Call

if TYPE_CHECKING:
    from pydantic import BaseModel

_REF = "#/components/schemas/{model}"

PARAMETERS: dict[str, dict[str, Any]] = {
    "uid": {
        "name": "uid",
        "in": "path",
        "required": True,
        "description": "Label Studio's uid of a project.",
        "schema": {"type": "string", "pattern": f"^{PATTERN}$"},
    },
    "run": {
        "name": "run",
        "in": "path",
        "required": True,
        "description": "A run's id.",
        "schema": {"type": "string", "pattern": r"^\d{1,18}-\d{1,12}-\d{1,12}$"},
    },
    "number": {
        "name": "number",
        "in": "path",
        "required": True,
        "description": "A version's number.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT},
    },
}


def document() -> dict[str, Any]:
    """The whole document, as JSON."""
    wanted: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {}
    for call in CALLS:
        wanted[call.answer, "serialization"] = None
        if call.body is not None:
            wanted[call.body, "validation"] = None
    wanted[views.Refused, "serialization"] = None
    _, schemas = models_json_schema([*wanted], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(PREFIX + call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ml-backend",
            "version": __version__,
            "description": "Projects, trainings and versions of a Label Studio ML backend that retrains by itself. "
            "Times are seconds since the epoch. What changes something takes a JSON object, empty where there is "
            "nothing to say.",
        },
        "servers": [{"url": "/"}],
        "security": [{"basic": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "session": {"type": "apiKey", "in": "cookie", "name": "refit_session"},
            },
        },
    }


def _operation(call: Call) -> dict[str, Any]:
    names = [*re.findall(r"{(\w+)}", call.path), *(["limit"] if call.limited else [])]
    refused = [400, 401, 429, 503, *([404] if names else []), *([409, 413, 415] if call.body else [])]
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "responses": {
            str(call.status): _content(call.answer, HTTPStatus(call.status).phrase),
            **{str(status): _content(views.Refused, HTTPStatus(status).phrase) for status in sorted(refused)},
        },
    }
    if names:
        operation["parameters"] = [PARAMETERS[name] for name in names]
    if call.body is not None:
        operation["requestBody"] = {"required": True, **_content(call.body)}
    return operation


def _content(model: type[views.View], description: str | None = None) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=model.__name__)}
    found: dict[str, Any] = {"content": {"application/json": {"schema": schema}}}
    return found if description is None else {"description": description, **found}
