"""Predictions: serving the promoted version in a web process, and swapping in the next one without a pause."""

from ml_backend.predictions.server import LoadError, PredictionServer

__all__ = ["LoadError", "PredictionServer"]
