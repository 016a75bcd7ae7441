"""What the web needs from the rest, as narrow protocols: the composition root's services fit them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml_backend.jobs import Jobs
    from ml_backend.overview import Orders, Overview
    from ml_backend.registry import Version
    from ml_backend.runs import Runs
    from ml_backend.settings import Settings
    from ml_backend.state import State
    from ml_backend.tally import Tally


class Backend(Protocol):
    """The connected model class: handles events, says what it supports."""

    def fit(self, event: str, data: dict[str, Any], /) -> dict[str, Any]:
        """Handle one event; ``{"status", "reason"}`` and ``"job"`` when a run waits for it."""
        ...

    def check(self, label_config: str, /) -> str | None:
        """Why this label config is not supported; None when it is."""
        ...


class Predictions(Protocol):
    """Whatever answers `/predict`."""

    def predict(
        self,
        uid: str,
        tasks: Sequence[dict[str, Any]],
        label_config: str,
        context: dict[str, Any] | None,
        deadline_s: float,
    ) -> list[list[dict[str, Any]]]:
        """A list of predictions for each task, empty where there is none."""
        ...

    def served(self, uid: str) -> str | None:
        """The name of the version that every live web process serves; None before the first."""
        ...

    def served_with(self, uid: str, fields: Sequence[str]) -> tuple[str | None, tuple[str | None, ...]]:
        """The same, and ``fields`` of the project as the state keeps them, in one round trip. Raises `Unavailable`."""
        ...


class Versions(Protocol):
    """The version store, as far as the web reads it."""

    def versions(self, uid: str) -> list[Version]:
        """All versions of a project, newest first."""
        ...


class Services(Protocol):
    """Everything that the views reach."""

    @property
    def settings(self) -> Settings:
        """The operator's settings."""
        ...

    @property
    def state(self) -> State:
        """Training sets and counters."""
        ...

    @property
    def runs(self) -> Runs:
        """What waits, what trains, what is over."""
        ...

    @property
    def registry(self) -> Versions:
        """The version store."""
        ...

    @property
    def backend(self) -> Backend:
        """The instance that handles events."""
        ...

    @property
    def server(self) -> Predictions:
        """Makes predictions with the served versions."""
        ...

    @property
    def model_class(self) -> type:
        """The model's class, for its name."""
        ...

    @property
    def tally(self) -> Tally:
        """Counts for metrics."""
        ...

    def jobs(self) -> Jobs:
        """The queues."""
        ...

    def shared_secret(self) -> str:
        """A secret that all web processes share."""
        ...

    def overview(self) -> Overview:
        """What people and programs see."""
        ...

    def orders(self, overview: Overview) -> Orders:
        """What they order."""
        ...
