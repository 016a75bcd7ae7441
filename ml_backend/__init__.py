"""The public surface: what a model author imports. Everything is loaded when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.errors import MediaError, NotTrainable

if TYPE_CHECKING:
    from ml_backend.backend import TrainingBackend
    from ml_backend.examples import Example, TrainingRun, TrainingSet
    from ml_backend.label_config import Control

__version__ = "0.1.0"
__all__ = [
    "Control",
    "Example",
    "MediaError",
    "NotTrainable",
    "TrainingBackend",
    "TrainingRun",
    "TrainingSet",
    "__version__",
]

_ROOMS = {
    "Control": "ml_backend.label_config",
    "Example": "ml_backend.examples",
    "TrainingBackend": "ml_backend.backend",
    "TrainingRun": "ml_backend.examples",
    "TrainingSet": "ml_backend.examples",
}


def __getattr__(name: str) -> object:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Late on purpose: the command line and the supervisor need none of this, and label-studio-ml is slow to import.
    import importlib  # noqa: PLC0415

    return getattr(importlib.import_module(room), name)
