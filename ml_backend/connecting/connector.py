"""Carries out what the plan says, through Label Studio's API, and proves that an event arrives."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ml_backend.connecting.addresses import bare, bare_of_webhook, without_login
from ml_backend.connecting.plan import (
    Ours,
    connections_here,
    plan_connection,
    plan_webhooks,
    stale_password,
    webhooks_here,
)
from ml_backend.errors import LabelStudioError, LabelStudioRefused, RegistryError
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.connecting.own import Own
    from ml_backend.connecting.plan import Step
    from ml_backend.label_studio import Connection, LabelStudioApi, ProjectDetails
    from ml_backend.registry import Registry
    from ml_backend.state import State

UNCERTAINTY = "Uncertainty sampling"
ARRIVES_WITHIN_S = 10.0
"""A Label Studio with a Redis of its own sends events from a queue."""
_LOOK_S = 0.02
_PAUSE_S = 1.0


class NotProven(LabelStudioError):
    """Everything is set as it must be, and still no event arrives."""


@dataclass(slots=True)
class Connected:
    """What `Connector.connect` or `disconnect` did: ``done`` is empty when nothing had to change.

    ``notes`` is what a person should know and nobody changed. ``arrived_s``: after how many seconds the event that
    Label Studio was made to send was recorded here; None when none was sent.
    """

    url: str
    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    arrived_s: float | None = None


class Connector:
    """Connects and disconnects projects of one Label Studio. Every method may raise `LabelStudioError`."""

    def __init__(
        self,
        api: LabelStudioApi,
        label_studio_url: str,
        this: Own,
        state: State,
        registry: Registry,
        *,
        forget: Callable[[str], None],
    ) -> None:
        """``forget(uid)`` ends what waits and runs of a project that is disconnected."""
        self._api = api
        self._url = label_studio_url
        self._this = this
        self._state = state
        self._registry = registry
        self._forget = forget

    def ours(self, uid: str, url: str = "") -> Ours:
        """How to know what is ours in a project."""
        known = self._state.load(uid)
        earlier = known.meta.get("connected_at", "").split() if known is not None else []
        try:
            versions = frozenset(one.name for one in self._registry.versions(uid))
        except RegistryError:
            versions = frozenset()  # it only helps to recognise connections at an address that nobody remembers
        here = [] if url else self._this.addresses(self._url)
        return Ours(
            url or here[0],
            self._this.login,
            self._this.passwords,
            frozenset({*earlier, *here, self._this.here}),
            versions,
        )

    def connect(
        self,
        details: ProjectDetails,
        *,
        url: str | None = None,
        title: str = "ml-backend",
        extra_params: object = None,
        active_learning: bool = False,
        prove_within_s: float = ARRIVES_WITHIN_S,
    ) -> Connected:
        """Make the project's connection and webhook as they must be, then have Label Studio send an event.

        ``url`` is where Label Studio reaches this backend; without it the present connection's address is kept, and
        for a new one likely addresses are tried. ``extra_params`` None leaves the connection's as they are.
        Raises `NotProven` when no event arrives in time, `BadInput` for a wrong ``url``.
        """
        project_id, uid = details.project.id, _uid(details)
        given = self._this.addresses(self._url, url) if url is not None or self._this.url else None
        ours = self.ours(uid, given[0] if given else "")
        connections = self._api.connections(project_id)
        stale = stale_password(ours, self._api.webhooks(project_id))
        mine = connections_here(ours, connections)
        if given is None and mine and mine[0].state not in {"ER", "DI"}:
            given = [without_login(mine[0].url)]
        known = frozenset({*ours.earlier, *(without_login(one.url) for one in mine)})
        tried = [replace(ours, url=one, earlier=known) for one in given or self._this.addresses(self._url)]
        done = Connected("")
        ours, steps = self._first_that_works(
            tried,
            lambda one: plan_connection(one, connections, title=title, extra_params=extra_params, stale_password=stale),
            project_id,
        )
        done.done += steps
        done.url = ours.url
        self._state.mark(uid, connected_at=" ".join(sorted({*_remembered(self._state, uid), ours.url})))
        self._webhooks(details, ours, done)
        if active_learning and details.sampling != UNCERTAINTY:
            self._api.set_sampling(project_id, UNCERTAINTY)
            self._state.mark(uid, sampling_before=details.sampling)
            done.done.append("uncertainty sampling switched on")
        if active_learning:
            self._state.mark(uid, active_learning="1")
        done.arrived_s = self.prove(details, within_s=prove_within_s)
        return done

    def disconnect(self, details: ProjectDetails) -> Connected:
        """Remove connections to this backend, its webhooks, and the sampling that `connect` switched on.

        The training set and the versions stay; what waits or runs is cancelled.
        """
        project_id, uid = details.project.id, _uid(details)
        ours = self.ours(uid, self._this.addresses(self._url)[0] if self._this.url else "")
        done = Connected(ours.url)
        connections = self._api.connections(project_id)
        mine = connections_here(ours, connections)
        ours = replace(ours, earlier=frozenset({*ours.earlier, *(without_login(one.url) for one in mine)}))
        others = [one.url for one in connections if one not in mine]
        for one in mine:
            self._api.delete_connection(one.id)
            done.done.append(f"connection {one.id} at {without_login(one.url)} removed")
        for hook in webhooks_here(ours, self._api.webhooks(project_id), others):
            self._api.delete_webhook(hook.id)
            done.done.append(f"webhook {hook.id} at {without_login(hook.url)} removed")
        known = self._state.load(uid)
        if known is not None:
            before = known.meta.get("sampling_before")
            if before and details.sampling == UNCERTAINTY:
                self._api.set_sampling(project_id, before)
                done.done.append(f"{before.lower()} again")
            self._state.mark(uid, sampling_before=None, active_learning=None, connected_at=None)
            if known.deleted_at is None:
                self._forget(uid)
        return done

    def forget(self, project_id: int) -> bool:
        """End what waits and runs of a project that Label Studio does not show; False if none of that id is known."""
        known = [one for uid in self._state.uids() if id_of(uid) == project_id and (one := self._state.load(uid))]
        alive = [one.uid for one in known if one.deleted_at is None]
        for uid in alive:
            self._state.mark(uid, sampling_before=None, active_learning=None, connected_at=None)
            self._forget(uid)
        return bool(alive)

    def prove(self, details: ProjectDetails, *, within_s: float = ARRIVES_WITHIN_S) -> float:
        """Have Label Studio send an event that changes nothing; the seconds until it is recorded here.

        Raises `NotProven`.
        """
        uid = _uid(details)
        before = self._heard(uid)
        began = time.monotonic()
        self._api.touch_project(details.project.id)
        while (heard := self._heard(uid)) is None or heard == before:
            if time.monotonic() - began > within_s:
                raise NotProven(
                    f"project {details.project.id}: Label Studio saved the project and its event did not arrive within "
                    f"{within_s:g} s. Its own log says why the webhook failed: a proxy (HTTP_PROXY without NO_PROXY), "
                    "SSRF_PROTECTION_ENABLED, or an answer that took longer than 1 s. If it did arrive, this command "
                    "looks into another Redis or data folder than the backend that Label Studio reaches."
                )
            time.sleep(_LOOK_S)
        return time.monotonic() - began

    def _heard(self, uid: str) -> float | None:
        known = self._state.load(uid)
        return None if known is None else known.heard_at

    def _first_that_works(
        self, tried: list[Ours], plan: Callable[[Ours], Step | None], project_id: int
    ) -> tuple[Ours, list[str]]:
        refused: list[tuple[str, LabelStudioRefused]] = []
        for ours in tried:
            step = plan(ours)
            if step is None:
                return ours, []
            error = self._take(step, project_id)
            if error is not None and len(tried) == 1 and "health check failed" in str(error).lower():
                # Label Studio waits a second for the answer, and not longer: one miss may be a busy moment.
                time.sleep(_PAUSE_S)
                error = self._take(step, project_id)
            if error is None:
                return ours, [step.what]
            refused.append((ours.url, error))
        reasons = "\n".join(f"  {url}: {error}" for url, error in refused)
        advice = "\n".join(dict.fromkeys(_advice(str(error)) for _, error in refused))
        raise LabelStudioRefused(
            refused[-1][1].status, f"Label Studio does not take this backend:\n{reasons}\n{advice}"
        ) from refused[-1][1]

    def _take(self, step: Step, project_id: int) -> LabelStudioRefused | None:
        """Make or change the connection; Label Studio's refusal of the address, if it refuses it."""
        try:
            if step.create is not None:
                self._api.create_connection(project_id, step.create)
            elif step.change is not None:
                self._api.update_connection(*step.change)
        except LabelStudioRefused as error:
            if error.status in {401, 403, 404}:
                raise
            return error
        return None

    def _webhooks(self, details: ProjectDetails, ours: Ours, done: Connected) -> None:
        connections = self._api.connections(details.project.id)
        mine = connections_here(ours, connections)
        here: Connection | None = mine[0] if mine else None
        others = [one.url for one in connections if one not in mine]
        url = here.url if here is not None and bare(here.url) == bare(ours.url) else ours.url
        for step in plan_webhooks(ours, url, self._api.webhooks(details.project.id), others):
            if step.remove is not None:
                self._api.delete_webhook(step.remove.id)
            elif step.webhook is not None and step.webhook.id:
                self._api.update_webhook(step.webhook)
            elif step.webhook is not None:
                self._api.create_webhook(details.project.id, step.webhook.url, step.webhook.headers)
            done.done.append(step.what)
        done.notes += [
            f"connection {one.id} at {without_login(one.url)} leads here too: each prediction is made twice"
            for one in mine[1:]
        ]
        for hook in self._api.webhooks():
            if hook.project_id is None and bare_of_webhook(hook.url) in ours.places:
                done.notes.append(f"webhook {hook.id} of the organization brings every event once more (harmless)")


def _uid(details: ProjectDetails) -> str:
    uid = details.project.uid
    if uid is None:
        raise LabelStudioError(f"Label Studio does not say when project {details.project.id} was created")
    return uid


def _remembered(state: State, uid: str) -> list[str]:
    known = state.load(uid)
    return known.meta.get("connected_at", "").split() if known is not None else []


def _advice(refusal: str) -> str:
    """What to do about Label Studio's refusal of an address."""
    said = refusal.lower()
    if "reserved network" in said or "ssrf" in said:
        return (
            "Label Studio refuses private addresses: start it with SSRF_PROTECTION_ENABLED=false and "
            "ML_BLOCK_LOCAL_IP=false, or list your network there."
        )
    if "resolve" in said:
        return "Say where Label Studio reaches this backend: --url http://HOST:PORT, as seen from Label Studio."
    if "health check failed" in said:
        return (
            "Label Studio gets no answer there. If it runs in a container, start the backend with --host 0.0.0.0 and "
            "give --url http://host.docker.internal:PORT; if it has HTTP_PROXY set, name this host in its NO_PROXY."
        )
    if "authentication" in said:
        return "The credentials are refused: is it this backend that answers there?"
    return "See what the backend's log says."
