"""A model that says what its version's file says, and a web process of one thread that serves it, for tests."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend import backend
from ml_backend.predictions import PredictionServer
from ml_backend.registry import Manifest, Registry
from tests.valkey import connect

if TYPE_CHECKING:
    import redis

    from ml_backend.settings import Strategy

UID = "5.1795333883"
CONFIG = (
    '<View><Text name="t" value="$text"/>'
    '<Choices name="c" toName="t"><Choice value="a"/><Choice value="b"/></Choices></View>'
)


class Parrot(backend.TrainingBackend):
    """Answers every task with the word in ``word.txt``; the words themselves ask for trouble."""

    word = ""

    def load(self, directory: Path) -> None:
        self.word = (directory / "word.txt").read_text()
        if self.word == "breaks on load":
            raise RuntimeError("these weights are of another library's release")
        if self.word.startswith("slow"):
            time.sleep(1.0)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if self.word == "breaks on predict":
            raise RuntimeError("no such layer")
        if self.word == "forgets one":
            return [self.answer(task) for task in tasks][1:]
        if self.word == "takes its time":
            time.sleep(0.01 * len(tasks))
        return [self.answer(task) for task in tasks]

    def answer(self, task: dict[str, Any]) -> Any:
        if task["data"]["text"] == "nothing":
            return []
        region = {"from_name": self.controls[0].name, "to_name": "t", "type": "choices", "score": 0.9}
        return {"result": [region | {"value": {"choices": [self.word]}}], "score": 0.5}


def make_model(uid: str, label_config: str) -> tuple[Parrot, Strategy]:
    return Parrot(uid, label_config), "margin"


def publish(registry: Registry, word: str, uid: str = UID, *, promote: bool = True) -> str:
    """Publish a version that says ``word``; its name."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "word.txt").write_text(word)
        number = registry.new_number(uid)
        version = registry.publish(
            uid, number, Path(folder), Manifest(label_config=CONFIG), lambda: True, now=time.time()
        )
    if promote:
        registry.promote(uid, number, token=number, now=time.time())
    return version.name


def tasks(*texts: str) -> list[dict[str, Any]]:
    return [{"id": number, "data": {"text": text}} for number, text in enumerate(texts, start=1)]


def word_of(predictions: list[dict[str, Any]]) -> str:
    """What the model said about one task."""
    return str(predictions[0]["result"][0]["value"]["choices"][0])


def server(client: redis.Redis, store: str | Path, **options: Any) -> PredictionServer:
    return PredictionServer(Registry(store, client), make_model, client, **{"poll_s": 0.05, **options})


def main() -> None:
    """A web process: does what each line on stdin asks, answers with one line of JSON."""
    with server(connect(Path(sys.argv[1])), sys.argv[2]) as serving:
        for line in sys.stdin:
            match line.split():
                case ["predict"]:
                    answer: Any = word_of(serving.predict(UID, tasks("hello"), CONFIG)[0])
                case ["served"]:
                    answer = serving.served(UID)
                case _:
                    answer = None
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
