"""Looks at the file behind each task's image before it says anything of it."""

from __future__ import annotations

from typing import Any

from tests.parrot import Parrot


class Looker(Parrot):
    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        for task in tasks:
            self.path(task, "image").read_bytes()
        return [{"result": [], "score": 1.0} for _ in tasks]
