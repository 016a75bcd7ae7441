"""What people and programs see of every project: read once, for the page, the API, the command line and metrics."""

from ml_backend.overview.orders import Orders
from ml_backend.overview.reading import Overview

__all__ = ["Orders", "Overview"]
