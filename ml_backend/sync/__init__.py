"""Sync: keeps training sets equal to what Label Studio says, whatever its events lost."""

from ml_backend.sync.access import Access
from ml_backend.sync.plan import Due, Later, plan
from ml_backend.sync.requests import Syncs
from ml_backend.sync.standing import Standing, Standings
from ml_backend.sync.syncer import Syncer

__all__ = ["Access", "Due", "Later", "Standing", "Standings", "Syncer", "Syncs", "plan"]
