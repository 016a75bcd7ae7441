"""The training set of one run: written to a file once, then streamed from it as often as the model likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ml_backend.examples import Example, LabelledAnnotation, TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ml_backend.examples import Fetch
    from ml_backend.label_config import Control
    from ml_backend.state.store import StoredTask


@dataclass(frozen=True, slots=True)
class Line:
    """Where one example lies in the file, and what choosing held-out ones needs to know of it."""

    task: int
    offset: int
    created_at_us: int
    ground_truth: bool
    annotations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A snapshot on disk: its lines in order of task id, and the bulk-accepted annotations that were left out."""

    path: Path
    lines: tuple[Line, ...]
    left_out: int

    @property
    def annotations(self) -> int:
        """How many annotations it holds."""
        return sum(len(line.annotations) for line in self.lines)


def write(stored: Iterable[StoredTask], path: Path) -> Written:
    """Write the examples to ``path``, one JSON line each; a task that came twice counts once, as it came last."""
    lines: dict[int, Line] = {}
    left_out: dict[int, int] = {}
    with path.open("wb") as file:
        for one in stored:
            task_id = int(one.task["id"])
            left_out[task_id] = one.left_out
            if not one.annotations:
                continue
            lines[task_id] = Line(
                task_id,
                file.tell(),
                int(one.task["created_at_us"]),
                any(annotation.ground_truth for annotation in one.annotations),
                tuple(annotation.id for annotation in one.annotations),
            )
            file.write(orjson.dumps([one.task, one.annotations]) + b"\n")
    return Written(path, tuple(lines[task] for task in sorted(lines)), sum(left_out.values()))


class FileTrainingSet(TrainingSet):
    """Examples streamed from a snapshot; memory stays that of one example, and of 100 bytes or so for each line."""

    def __init__(
        self,
        written: Written,
        lines: tuple[Line, ...],
        *,
        label_config: str,
        controls: tuple[Control, ...],
        changed: frozenset[int] | None,
        fetch: Fetch | None = None,
    ) -> None:
        self._path = written.path
        self._lines = lines
        self._changed = changed
        self._fetch = fetch
        self.label_config = label_config
        self.controls = controls

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Example]:
        with self._path.open("rb") as file:
            at = 0
            for line in self._lines:
                if line.offset != at:
                    file.seek(line.offset)
                raw = file.readline()
                at = line.offset + len(raw)
                task, annotations = orjson.loads(raw)
                yield Example(task, tuple(_annotation(one) for one in annotations), self._fetch)

    @property
    def changes(self) -> frozenset[int]:
        """Ids of the tasks whose annotations changed since the parent version; all of them without a parent."""
        if self._changed is None:
            return frozenset(line.task for line in self._lines)
        return frozenset(line.task for line in self._lines if not self._changed.isdisjoint(line.annotations))

    @property
    def lines(self) -> tuple[Line, ...]:
        """What it holds."""
        return self._lines


def _annotation(one: dict[str, Any]) -> LabelledAnnotation:
    return LabelledAnnotation(**one)
