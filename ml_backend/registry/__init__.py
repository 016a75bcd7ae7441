"""The version store: complete, checksummed versions of each project's model, and which one of them serves."""

from ml_backend.registry.aliases import Alias
from ml_backend.registry.manifest import (
    FileEntry,
    Manifest,
    Metrics,
    Promotion,
    Status,
    Version,
    decode_ids,
    encode_ids,
    version_name,
    version_number,
)
from ml_backend.registry.registry import Registry

__all__ = [
    "Alias",
    "FileEntry",
    "Manifest",
    "Metrics",
    "Promotion",
    "Registry",
    "Status",
    "Version",
    "decode_ids",
    "encode_ids",
    "version_name",
    "version_number",
]
