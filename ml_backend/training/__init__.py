"""One training run, from the lease to the promoted version."""

from ml_backend.training.attempt import Keeper
from ml_backend.training.run import Trainer

__all__ = ["Keeper", "Trainer"]
