"""Label Studio's API, as far as the product needs it: typed, retried, and with the key sent nowhere else."""

from ml_backend.label_studio.api import LabelStudioApi
from ml_backend.label_studio.records import (
    Connection,
    Identity,
    LabelledTask,
    PlacedPrediction,
    PlainTask,
    ProjectDetails,
    StoredPrediction,
    WantedConnection,
    Webhook,
)

__all__ = [
    "Connection",
    "Identity",
    "LabelStudioApi",
    "LabelledTask",
    "PlacedPrediction",
    "PlainTask",
    "ProjectDetails",
    "StoredPrediction",
    "WantedConnection",
    "Webhook",
]
