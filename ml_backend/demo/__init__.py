"""The demo of `ml-backend quickstart`: a real Label Studio in a folder of its own, a project, and texts to label."""

from ml_backend.demo.place import RELEASE, Place

__all__ = ["RELEASE", "Place"]
