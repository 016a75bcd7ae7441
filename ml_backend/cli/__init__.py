"""The command line: ml-backend."""

from ml_backend.cli.app import main

__all__ = ["main"]
