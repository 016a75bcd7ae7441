"""What the shipped models share: each predicts one type of control tag, and says why it leaves others alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ml_backend import Control, TrainingBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Shipped(TrainingBackend):
    """Predicts every control of one type that it supports; leaves other controls alone."""

    control_type: ClassVar[str]

    @staticmethod
    def why_not(control: Control) -> str | None:
        """Why this control is not supported; None when it is."""
        raise NotImplementedError

    def check(self, label_config: str) -> str | None:
        """Why nothing in this config can be predicted: one reason for each control tag."""
        return why_none(type(self)(label_config=label_config).controls, self.why_not, self.control_type)


def why_none(controls: Sequence[Control], why_not: Callable[[Control], str | None], known: str) -> str | None:
    """The reasons against each control; None when there is none against one of them. ``known`` is what would be."""
    reasons = [why_not(control) for control in controls]
    if None in reasons:
        return None
    named = (f"{control.name!r} {why}" for control, why in zip(controls, reasons, strict=True))
    return "; ".join(named) or f"there is no control tag such as {known}"
