"""Label configs that were seen already, so that each is parsed and checked once."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput, Unavailable
from ml_backend.label_config import parse_label_config

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_REMEMBERED = 256
_LONGEST_REASON = 300


class LabelConfigs:
    """Remembers what the model said of the last label configs, by their digest. Safe to share between threads."""

    def __init__(self, check: Callable[[str], str | None]) -> None:
        self._check = check
        self._seen: OrderedDict[bytes, str | None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, label_config: str, *, field: str = "label_config") -> str | None:
        """Why the model does not support it; None when it does.

        Raises `BadInput` naming ``field`` when it cannot be a label config, or has nothing to annotate with.
        """
        digest = hashlib.blake2b(label_config.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            if digest in self._seen:
                self._seen.move_to_end(digest)
                return self._seen[digest]
        try:
            controls = parse_label_config(label_config)
        except BadInput as wrong:
            raise BadInput(field, wrong.reason) from None
        if not controls:
            raise BadInput(field, "has no tag to annotate with, such as Choices or Labels")
        try:
            reason = self._ask(label_config)
        except Unavailable as error:
            # Nobody can say so now: it is asked again with the next call.
            log.warning("%s", error)
            return None
        with self._lock:
            self._seen[digest] = reason
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return reason

    def _ask(self, label_config: str) -> str | None:
        try:
            reason = self._check(label_config)
        except Unavailable:
            raise
        except Exception as error:
            # The model author's code: its failure must not cut the connection to Label Studio.
            log.exception("check() of the model failed")
            return f"its check failed with {type(error).__name__}"
        return str(reason)[:_LONGEST_REASON] if reason else None
