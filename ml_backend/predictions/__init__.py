"""Predictions: serving the promoted version in a web process, or in predict workers, and swapping in the next one."""

from ml_backend.predictions.desk import Desk
from ml_backend.predictions.remote import RemotePredictions
from ml_backend.predictions.server import LoadError, PredictionServer
from ml_backend.predictions.worker import PredictWorker

__all__ = ["Desk", "LoadError", "PredictWorker", "PredictionServer", "RemotePredictions"]
