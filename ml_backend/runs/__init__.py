"""What waits, what trains and what is over, per project: the state machine of training runs.

Other rooms that must fence a write (publish, promote) compare the `id`, `token` and `nonce` fields of the hash
``P:running`` with those of the `Lease`, inside their own script, or ask `Runs.check`.
"""

from ml_backend.runs.machine import MAX_FAILURES, MAX_LOSSES, Runs
from ml_backend.runs.records import (
    Dispatch,
    Lease,
    Left,
    Outcome,
    Renewed,
    Requested,
    Run,
    Standing,
    Status,
    label_studio_status,
    uid_of,
)

__all__ = [
    "MAX_FAILURES",
    "MAX_LOSSES",
    "Dispatch",
    "Lease",
    "Left",
    "Outcome",
    "Renewed",
    "Requested",
    "Run",
    "Runs",
    "Standing",
    "Status",
    "label_studio_status",
    "uid_of",
]
