"""State: what Redis holds of each project: its training set, its counters, and what changed since the last training."""

from ml_backend.state.project import Known, ProjectState
from ml_backend.state.store import Recorded, Snapshot, State
from ml_backend.state.syncing import Sync, SyncState

__all__ = ["Known", "ProjectState", "Recorded", "Snapshot", "State", "Sync", "SyncState"]
