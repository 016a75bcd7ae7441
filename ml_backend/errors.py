"""Every error that crosses a room's border, as one tree.

RefitError
├── BadInput                 what a caller sent is wrong; names the field            (HTTP 4xx)
│   └── ProjectUnknown       the project in a request is not known, or is ambiguous  (HTTP 404)
├── SettingsError            a setting is wrong; names it
├── Unavailable              Redis does not answer                                   (HTTP 503)
├── NewerState               what a newer release wrote; this one must not touch it  (HTTP 503)
├── ModelError               the model author's side
│   ├── ModelNotFound        no model where one was looked for
│   ├── NotTrainable         the training set cannot train this model; a reason, not a crash
│   └── ModelLoadFailed      a version's files could not be loaded
├── RunEnded                 raised inside a run that must stop
│   ├── RunCancelled         somebody cancelled it
│   ├── LeaseLost            another worker may hold the project now: publish nothing
│   ├── WorkerStopping       the worker was asked to stop: the run goes back to the queue
│   └── RunTimedOut          it took longer than a run may take
├── RegistryError            the version store
│   ├── VersionNotFound
│   ├── VersionCorrupt       a file is missing, cut short or tampered with
│   ├── PromotionRefused     what serves may not be moved as asked                   (HTTP 409)
│   └── StoreUnavailable
├── MediaError               a task's file that cannot be had; a `LookupError` too
└── LabelStudioError         Label Studio's API
    ├── LabelStudioUnreachable
    ├── LabelStudioRefused   it answered with an error status
    └── WrongToken           the key is refused, or of a kind that this installation does not take
"""

from __future__ import annotations

from typing import Literal

_LONGEST_URL_SHOWN = 200


class RefitError(Exception):
    """The root; catching it catches everything this package raises on purpose."""


class BadInput(RefitError):
    """Something a caller sent cannot be used.

    ``field`` is a dotted path (``annotation.created_at``), ``reason`` one sentence, ``status`` the HTTP status.
    """

    status = 400

    def __init__(self, field: str, reason: str, *, status: int | None = None) -> None:
        self.field = field
        self.reason = reason
        if status is not None:
            self.status = status
        super().__init__(f"{field}: {reason}")


class ProjectUnknown(BadInput):
    """The project named in a request is not known here, or its id alone fits more than one."""

    status = 404


class SettingsError(RefitError):
    """A setting has a value that cannot be used; ``name`` is the variable or key."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name}: {reason}")


class Unavailable(RefitError):
    """Redis does not answer in time, or refuses writes."""


class NewerState(RefitError):
    """A newer release wrote this state: reading it by older rules would damage it."""


class ModelError(RefitError):
    """Something on the model author's side."""


class ModelNotFound(ModelError):
    """There is no model where one was looked for."""


class NotTrainable(ModelError):
    """The training set cannot train this model (one class, no annotation): a reason to show, not a crash."""


class ModelLoadFailed(ModelError):
    """The files of a version could not be loaded by the model class."""


class RunEnded(RefitError):
    """Raised inside a run that must stop."""


class RunCancelled(RunEnded):
    """Somebody cancelled the run."""


class LeaseLost(RunEnded):
    """The lease ran out or the project belongs to another run now: nothing may be published."""


class WorkerStopping(RunEnded):
    """The worker was asked to stop; the run goes back to the queue."""


class RunTimedOut(RunEnded):
    """The run took longer than the operator lets a run take."""


class RegistryError(RefitError):
    """Something about the version store."""


class VersionNotFound(RegistryError):
    """No such version of that project."""


class VersionCorrupt(RegistryError):
    """A file of the version is missing, cut short or has another checksum than its manifest says."""


class PromotionRefused(RegistryError):
    """What serves may not be moved as asked: a version is pinned, or somebody else moved it meanwhile."""


class StoreUnavailable(RegistryError):
    """The version store cannot be read or written."""


MediaErrorKind = Literal[
    "not_media", "host_not_allowed", "not_configured", "not_found", "refused", "too_large", "unreachable"
]


class MediaError(RefitError, LookupError):
    """The file behind a task's value cannot be had. ``kind`` is for programs, ``reason`` one sentence for people.

    ``not_media``: the value is no URL; ``host_not_allowed``: neither Label Studio nor listed; ``not_configured``: a
    setting is missing; ``not_found``, ``refused``, ``too_large``, ``unreachable``: what came of asking.
    """

    def __init__(self, kind: MediaErrorKind, reason: str, url: str) -> None:
        self.kind = kind
        self.reason = reason
        self.url = url
        shown = url.partition("?")[0][:_LONGEST_URL_SHOWN]  # a query may hold a signature
        super().__init__(f"{shown!r} cannot be fetched: {reason}")


class LabelStudioError(RefitError):
    """Something about Label Studio's API."""


class LabelStudioUnreachable(LabelStudioError):
    """No answer from Label Studio."""


class LabelStudioRefused(LabelStudioError):
    """Label Studio answered with an error; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class WrongToken(LabelStudioError):
    """The API key is refused, or is of a kind that this installation does not take (fact 14)."""
