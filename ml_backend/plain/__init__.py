"""Plain `LabelStudioMLBase` classes: their own `fit` runs in a worker, and what it wrote is served by a new process."""

from ml_backend.plain.model import PlainBackend, looks_plain, plain_backend
from ml_backend.plain.training import PlainTrainer
from ml_backend.plain.way import PlainEvents, PlainTurns

__all__ = ["PlainBackend", "PlainEvents", "PlainTrainer", "PlainTurns", "looks_plain", "plain_backend"]
