"""One training run, from the lease to the promoted version."""

from ml_backend.training.run import Keeper, Trainer

__all__ = ["Keeper", "Trainer"]
