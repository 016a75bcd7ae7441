"""What Label Studio sends, as files: every recorded request of 1.23.2, and the payloads of both webhook pages.

``label-studio-1.23.2/`` holds the requests in the order in which they came, with what was done in Label Studio before
(``step``). ``page-2021/`` and ``page-current/`` hold bodies: the pages' example payloads, and in ``*_fields.json`` what
their field tables describe without an example. Texts are ours; names, types and times are as recorded or documented.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    """One request as Label Studio 1.23.2 sent it; ``body`` is None where it had none or the recording left it out."""

    name: str
    step: str
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None


def requests() -> list[Request]:
    """Every recorded request, in order."""
    found = []
    for path in sorted((_HERE / "label-studio-1.23.2").glob("*.json")):
        raw = json.loads(path.read_text())
        if "body_file" in raw:
            raw["body"] = json.loads(gzip.decompress((path.parent / raw["body_file"]).read_bytes()))
        found.append(
            Request(path.stem, raw["step"], raw["method"], raw["path"], raw["headers"], raw.get("body")),
        )
    return found


def webhooks() -> list[Request]:
    """Every recorded call of the webhook whose body is there, in order."""
    return [request for request in requests() if request.path == "/webhook" and request.body is not None]


def import_of_5000() -> bytes:
    """The largest recorded body: a TASKS_CREATED of 5,000 tasks, 3.7 MB of JSON."""
    return gzip.decompress((_HERE / "label-studio-1.23.2" / "tasks_created_5000.json.gz").read_bytes())


def pages() -> dict[str, dict[str, Any]]:
    """The payloads of both reference pages, by ``page-2021/task_created`` and the like."""
    return {
        f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in sorted(_HERE.glob("page-*/*.json"))
    }
