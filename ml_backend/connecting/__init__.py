"""Connecting: makes a project's connection and webhook in Label Studio as they must be, and proves that events come.

What `start` needs is here; `plan` and `connector` bring an HTTP client along and are imported where they are used.
"""

from ml_backend.connecting.own import USER, Own, keep_address, kept_model, kept_secret, own

__all__ = ["USER", "Own", "keep_address", "kept_model", "kept_secret", "own"]
