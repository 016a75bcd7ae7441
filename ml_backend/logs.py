"""Logs: one line per decision and phase, and nothing in a line that could fake another one."""

from __future__ import annotations

import logging


class OneLine(logging.Formatter):
    """A record is one line; control characters from outside are shown, not obeyed. A traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        trace = record.exc_info
        record.exc_info, record.exc_text = None, None
        line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in super().format(record))
        record.exc_info = trace
        if trace:
            line += "\n    " + self.formatException(trace).replace("\n", "\n    ")
        return line


def set_up_logs(level: str) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Some of them write whole requests at the level DEBUG: addresses with signatures, headers with tokens.
    for chatty in ("rq", "httpx", "httpcore", "urllib3", "botocore", "aiobotocore"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
