"""Writes docs/api.md from the OpenAPI document: ``python docs/make_api.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_backend.web.openapi import document

TARGET = Path(__file__).with_name("api.md")
HEAD = """# JSON API

<!-- Made by docs/make_api.py from the OpenAPI document: change ml_backend/web/api.py and overview/views.py. -->

What the status page shows and orders, for programs. The backend serves the same description as an OpenAPI 3.1 document
at `/api/v1/openapi.json`.

```console
curl -u label-studio:PASSWORD http://localhost:9090/api/v1/projects
curl -u label-studio:PASSWORD --json '{}' http://localhost:9090/api/v1/projects/UID/runs
curl -u label-studio:PASSWORD --json '{"kind": "complete"}' http://localhost:9090/api/v1/projects/UID/sync
```

- **Login**: Basic auth, with the user and the password in the URL that `ml-backend start` prints. The status page's
  cookie is taken too.
- **A project** is named by Label Studio's own uid, `<id>.<created_at in whole seconds>`, as in `2.1795333883`:
  `/api/v1/projects` lists them.
- **What changes something** takes a JSON object with `Content-Type: application/json`, `{}` where there is nothing to
  say.
- **Times** are seconds since the epoch. A field that is `or null` is null until it happens.
- **Lists** come newest first. `limit` says how many at most.

| Refused with | When |
| --- | --- |
| 400 | a field or a parameter is wrong, or not known |
| 401 | no credentials, or wrong ones |
| 404 | no such project, run or version |
| 409 | it is not possible now: the reason says why |
| 413, 415 | the body is too large, or is not sent as JSON |
| 429 | too many wrong logins came from this address; ask again after `Retry-After` seconds |
| 503 | Redis or the version store does not answer; ask again after `Retry-After` seconds |

Every refusal has one form, [`Refused`](#refused): `{"error": {"field": "query.limit", "reason": "must be a whole number
from 1 to 200"}}`.

## Calls
"""


def name_of(schema: dict[str, Any]) -> str:
    """The object that a reference names."""
    return str(schema["$ref"]).rpartition("/")[2]


def type_of(schema: dict[str, Any]) -> str:
    """A type in words, as a cell of a table."""
    if "$ref" in schema:
        return f"[{name_of(schema)}](#{name_of(schema).lower()})"
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{one}`" if one else 'nothing (`""`)' for one in schema["enum"])
    if schema["type"] == "array":
        return f"list of {type_of(schema['items'])}"
    if schema["type"] == "object":
        return f"object of {type_of(schema['additionalProperties'])}"
    return str(schema["type"])


def code(text: str) -> str:
    """A docstring's code as Markdown's."""
    return text.replace("``", "`")


def limits_of(schema: dict[str, Any]) -> str:
    """What a number is limited to, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", from {low}" if low is not None else ""


def table_of(model: dict[str, Any], *, wish: bool) -> list[str]:
    """The fields of an object. ``wish``: it is sent to us, so that fields may be left out."""
    lines = ["| Field | Type | What it is |", "| --- | --- | --- |"]
    for name, schema in model.get("properties", {}).items():
        default = f" Left out: `{schema['default']}`." if wish and "default" in schema else ""
        said = schema.get("description", "") + default
        lines.append(
            f"| `{name}` | {type_of(schema)}{limits_of(schema)} | {said.strip().replace('|', chr(92) + '|')} |"
        )
    return lines


def call_of(path: str, method: str, call: dict[str, Any]) -> list[str]:
    """One call."""
    lines = [f"### {method.upper()} {path}", "", f"{call['summary']}.", ""]
    for one in call.get("parameters", []):
        schema = one["schema"]
        default = f", {schema['default']} if left out" if "default" in schema else ""
        lines.append(
            f"- `{one['name']}` in the {one['in']}: {one['description'].rstrip('.')}{limits_of(schema)}{default}."
        )
    if "requestBody" in call:
        body = call["requestBody"]["content"]["application/json"]["schema"]
        lines.append("- Body: `{}`." if name_of(body) == "Nothing" else f"- Body: {type_of(body)}.")
    refused = []
    for status, answer in call["responses"].items():
        schema = answer["content"]["application/json"]["schema"]
        if name_of(schema) == "Refused":
            refused.append(status)
        else:
            lines.append(f"- Answer: {status}, {type_of(schema)}.")
    return [*lines, f"- Refused: {', '.join(refused)}.", ""]


def rendered() -> str:
    """The whole page."""
    told = document()
    lines = [HEAD]
    wished: set[str] = set()
    for path, calls in told["paths"].items():
        for method, call in calls.items():
            lines += call_of(path, method, call)
            if "requestBody" in call:
                wished.add(name_of(call["requestBody"]["content"]["application/json"]["schema"]))
    lines += ["## Objects", ""]
    for name, model in told["components"]["schemas"].items():
        if model.get("properties"):
            lines += [f"### {name}", "", *([code(model["description"]), ""] if "description" in model else [])]
            lines += [*table_of(model, wish=name in wished), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
