"""What people read of a project, in words that are the same on the page and in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_backend.overview import views


def drift_in_words(project: views.Project) -> str:
    """What is known of how far the training set is Label Studio's."""
    sync, missing = project.sync, project.drift.missing
    if sync.running:
        return f"{sync.kind} sync: {sync.message or sync.phase} {sync.done} of {sync.total or '?'}"
    if sync.error:
        return f"sync failed: {sync.error}"
    if missing:
        unseen = f"{missing} annotations not seen"
        return f"{unseen}; {sync.problem}" if sync.problem else f"{unseen}; a sync is due"
    return f"{project.counters.total_annotations_number} in all"
