"""Prove an installed wheel: start it twice, train from webhooks alone, predict, stop.

Usage: python tests/wheel.py <bin folder of the environment> <data folder>
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.running import RunningBackend, wait_until

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text">'
    '<Choice value="good"/><Choice value="bad"/></Choices></View>'
)
UID = "7.1795333883"


def annotated(number: int) -> dict[str, object]:
    """The webhook of one submitted annotation."""
    mood = "good" if number % 2 else "bad"
    when = f"2026-11-22T08:00:{number:02d}.000000Z"
    dates = {"created_at": when, "updated_at": when}
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {
            "id": number,
            "task": number,
            "result": [{"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [mood]}}],
            **dates,
        },
        "task": {"id": number, "data": {"text": f"a {mood} thing, number {number}"}, **dates},
        "project": {"id": 7, "created_at": "2026-11-22T07:51:23.096964Z", "label_config": CONFIG, "title": "wheel"},
    }


def main(bin_folder: str, data: str) -> None:
    """Fail loudly when something does not hold."""
    data_dir = Path(data)
    data_dir.mkdir(parents=True, exist_ok=True)
    backend = RunningBackend(data_dir, command=[str(Path(bin_folder) / "ml-backend")])
    with backend:
        print(f"first start: /health after {backend.seconds_to_health:.2f} s")
        for number in range(1, 12):
            status, answer = backend.post("/webhook", annotated(number))
            assert status in {200, 201}, answer
        setup = {"project": UID, "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}
        began = time.monotonic()
        version = wait_until(
            lambda: backend.post("/setup", setup)[1].get("model_version"), 60, "/setup names a version"
        )
        print(f"{version} after {time.monotonic() - began:.1f} s")
        tasks = [{"id": 99, "data": {"text": "a good thing"}}]
        body = {"tasks": tasks, "project": UID, "label_config": CONFIG, "params": {}}
        status, answer = backend.post("/predict", body)
        first = answer["results"][0][0] if isinstance(answer["results"][0], list) else answer["results"][0]
        assert first["result"][0]["value"]["choices"] == ["good"], answer
    assert backend.stop() == 0
    with backend:
        print(f"second start: /health after {backend.seconds_to_health:.2f} s")
        assert backend.seconds_to_health < 5, backend.seconds_to_health
        assert backend.post("/setup", setup)[1]["model_version"] == version
    assert backend.stop() == 0
    print("the wheel works")


if __name__ == "__main__":
    main(*sys.argv[1:3])
