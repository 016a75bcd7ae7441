"""Whether Label Studio can be asked at all: its address and key, as the operator set them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Access:
    """``LABEL_STUDIO_URL`` and ``LABEL_STUDIO_API_KEY``. The key is sent there only."""

    url: str | None
    key: str | None = field(repr=False)

    @property
    def problem(self) -> str | None:
        """Why Label Studio cannot be asked; None when there is nothing to say against trying."""
        if not self.key and not self.url:
            return (
                "set LABEL_STUDIO_URL to Label Studio's address and LABEL_STUDIO_API_KEY to a personal access token: "
                "without them, only events are known"
            )
        if not self.key:
            return "set LABEL_STUDIO_API_KEY to a personal access token: without one, only events are known"
        if not self.url:
            return "set LABEL_STUDIO_URL: the API key is sent to that address only"
        return None

    @property
    def fingerprint(self) -> str:
        """Changes with address and key: what failed with another one may work with this."""
        return hashlib.sha256(f"{self.url}\0{self.key}".encode()).hexdigest()[:12]
