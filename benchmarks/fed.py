"""A whole ``ml-backend start`` that gets BANKING77 as webhooks, trains the shipped text classifier and serves it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import orjson

from benchmarks.common import PASSWORD, USER
from benchmarks.load import ask
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Question = tuple[str, str]

UID = "2.1795333883"
_CREATED = "2026-11-22T07:51:23.096964Z"
_BEGIN = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
_A_REQUEST = 500
_TRIES = 20


def config_of(labels: Sequence[str]) -> str:
    """A label config with one choice over a text."""
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    return f'<View><Text name="text" value="$text"/><Choices name="label" toName="text">{choices}</Choices></View>'


def annotated(first: int, rows: Sequence[Question], config: str) -> bytes:
    """An ANNOTATIONS_CREATED of these rows, each of a task of its own (fact 4); ids from ``first`` on."""
    annotations, tasks = [], []
    for number, (text, label) in enumerate(rows, first):
        when = (_BEGIN + timedelta(seconds=number)).isoformat()
        region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        dates = {"created_at": when, "updated_at": when}
        annotations.append({"id": number, "task": number, "result": [region], "completed_by": 1, **dates})
        tasks.append({"id": number, "data": {"text": text}, **dates})
    project = {"id": 2, "created_at": _CREATED, "updated_at": _CREATED, "title": "BANKING77", "label_config": config}
    body = {"action": "ANNOTATIONS_CREATED", "annotation": annotations, "task": tasks, "project": project}
    return orjson.dumps(body)


def predict_body(texts: Sequence[str], config: str) -> bytes:
    """What Label Studio posts to /predict."""
    tasks = [{"id": number, "data": {"text": text}} for number, text in enumerate(texts, 1)]
    params = {"login": None, "password": None, "context": None}
    return orjson.dumps({"tasks": tasks, "project": UID, "label_config": config, "params": params})


class FedBackend(RunningBackend):
    """Trains when it has ``threshold`` annotations, without a quiet period."""

    def __init__(
        self, where: Path, labels: Sequence[str], threshold: int, more: Mapping[str, str] | None = None
    ) -> None:
        (where / "data").mkdir()
        self.config = config_of(labels)
        self._fed = 0
        given = {
            "BASIC_AUTH_USER": USER,
            "BASIC_AUTH_PASS": PASSWORD,
            "ML_BACKEND_RETRAIN_QUIET": "0",
            "ML_BACKEND_RETRAIN_MIN_ANNOTATIONS": str(threshold),
            **(more or {}),
        }
        super().__init__(where / "data", environment=given)

    def feed(self, rows: Sequence[Question]) -> None:
        """Post the rows as annotations."""
        for at in range(0, len(rows), _A_REQUEST):
            some = rows[at : at + _A_REQUEST]
            self._ask("/webhook", annotated(self._fed + 1, some, self.config))
            self._fed += len(some)

    def served(self) -> str:
        """The version that /setup names; empty before the first."""
        body = {"project": UID, "schema": self.config, "hostname": "", "access_token": "", "extra_params": None}
        return str(self._ask("/setup", orjson.dumps(body))["model_version"])

    def wait_for_version(self, before: str = "", deadline_s: float = 180.0) -> float:
        """Wait until /setup names another version than ``before``; how long that took."""
        began = time.perf_counter()
        wait_until(lambda: self.served() not in {"", before}, deadline_s, "/setup names a version", every_s=0.01)
        return time.perf_counter() - began

    @property
    def version_folder(self) -> Path:
        """The files of the newest version."""
        folders = [one for one in (self.data_dir / "versions" / UID).iterdir() if one.name.isdigit()]
        return max(folders, key=lambda one: int(one.name))

    def predict(self, texts: Sequence[str]) -> list[Any]:
        """One request."""
        results = self._ask("/predict", predict_body(texts, self.config))["results"]
        if not all(results):
            raise RuntimeError("predictions are missing")
        return list(results)

    def _ask(self, path: str, body: bytes) -> Any:
        # On a busy machine the disk can take longer than the web waits for Redis: the answer is 503, "try again".
        for _ in range(_TRIES):
            status, answer = ask(self.port, "POST", path, body)
            if status != 503:
                break
            time.sleep(0.05)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer}")
        return answer
