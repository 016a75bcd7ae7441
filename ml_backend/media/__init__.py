"""Media: the files behind tasks' URLs, fetched from Label Studio and hosts that the operator lists, and cached."""

from ml_backend.media.addresses import Address, Hosts
from ml_backend.media.cache import Cache, Standing
from ml_backend.media.fetching import Media

__all__ = ["Address", "Cache", "Hosts", "Media", "Standing"]
