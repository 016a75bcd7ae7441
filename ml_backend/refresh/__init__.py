"""Fresh predictions: after a promotion the most useful tasks get the new version's predictions in Label Studio."""

from ml_backend.refresh.asking import Refreshing
from ml_backend.refresh.record import Records
from ml_backend.refresh.run import Refresher

__all__ = ["Records", "Refresher", "Refreshing"]
