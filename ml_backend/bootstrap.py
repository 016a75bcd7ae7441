"""The composition root: the one place where parts are made and joined, from settings alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ml_backend.clock import Clock
from ml_backend.errors import SettingsError, Unavailable
from ml_backend.event_way import EventWay, ProjectSettings, forget
from ml_backend.jobs import Jobs
from ml_backend.lease import LeaseKeeper
from ml_backend.media import Cache, Hosts, Media
from ml_backend.models import find_light, find_model
from ml_backend.overview import Orders, Overview
from ml_backend.pinning import Pinning
from ml_backend.plain import PlainBackend, PlainEvents, PlainTrainer, PlainTurns
from ml_backend.plain_state import PlainState
from ml_backend.predictions import Desk, PredictionServer, PredictWorker, RemotePredictions
from ml_backend.predictions.presence import Presence
from ml_backend.promotion import Promotions
from ml_backend.redis_address import client_of
from ml_backend.refresh import Records, Refresher, Refreshing
from ml_backend.registry import Registry
from ml_backend.runs import Lease, Runs
from ml_backend.settings import Refit, Settings
from ml_backend.state import State, SyncState
from ml_backend.state.due import CLAIM_S, DueList
from ml_backend.state.purge import Purge
from ml_backend.state.secret import shared_secret
from ml_backend.state.transfer import Transfer
from ml_backend.stepping_back import step_back
from ml_backend.sync import Access, Standings, Syncer, Syncs
from ml_backend.tally import Tally
from ml_backend.training import Trainer
from ml_backend.turns import Turns
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from ml_backend.backend import TrainingBackend
    from ml_backend.connecting.connector import Connector
    from ml_backend.label_studio import LabelStudioApi
    from ml_backend.settings import Strategy
    from ml_backend.state import ProjectState

log = logging.getLogger(__name__)

WEB_TIMEOUT_S = 0.35
"""A Redis that does not answer must not hold a request: 503 comes within half a second."""
PATIENT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Services:
    """Everything a face needs. Close it when done."""

    settings: Settings
    redis: redis.Redis
    state: State
    runs: Runs
    registry: Registry
    project_settings: ProjectSettings
    model_class: type[TrainingBackend]
    backend: TrainingBackend
    server: PredictionServer | RemotePredictions
    media: Media
    tally: Tally

    def make_model(self, uid: str, label_config: str, params: Mapping[str, Any] | None = None) -> TrainingBackend:
        """A fresh, empty model for a project."""
        made = self.model_class(str(id_of(uid)), label_config, extra_params=params)
        return made.fetching(self.media.of(uid))

    def transfer(self) -> Transfer:
        """Exports and imports of projects."""
        return Transfer(self.redis, self.settings.redis_prefix)

    def jobs(self) -> Jobs:
        """The queues."""
        return Jobs(self.redis, self.settings.redis_prefix)

    def clock(self) -> Clock:
        """A clock for this process."""
        purge = Purge(self.redis, self.settings.redis_prefix)
        return Clock(
            self.state,
            DueList(self.redis, self.settings.redis_prefix, claim_s=min(CLAIM_S, self.settings.lease)),
            self.runs,
            self.jobs(),
            self.project_settings,
            run_timeout=self.settings.run_timeout,
            purge=lambda uid, now: purge(uid, now, self.settings.purge_after),
            others=(
                *([PlainTurns(self.plain(), self.runs, self.registry)] if self.has_own_fit else []),
                Pinning(self.state, self.registry, self.project_settings),
                self.syncs(),
                self.refreshing(),
            ),
        )

    def due(self) -> DueList:
        """Which projects the clock must look at, and whether one ticks."""
        return DueList(self.redis, self.settings.redis_prefix)

    def standings(self) -> Standings:
        """How each project's sync stands."""
        return Standings(self.redis, self.settings.redis_prefix)

    def syncs(self) -> Syncs:
        """Asks for syncs."""
        return Syncs(
            self.state,
            self.due(),
            self.standings(),
            self.jobs(),
            self.access(),
            every=self.settings.sync_every,
            quiet=self._quiet,
        )

    def syncer(self) -> Syncer:
        """Carries out syncs, in a worker process."""
        return Syncer(
            self.state,
            SyncState(self.redis, self.settings.redis_prefix),
            self.standings(),
            self.access(),
            self.label_studio,
            every=self.settings.sync_every,
            quiet=self._quiet,
        )

    def access(self) -> Access:
        """Whether and where Label Studio can be asked."""
        key = self.settings.label_studio_api_key
        return Access(self.settings.label_studio_url, None if key is None else key.get_secret_value())

    def _quiet(self, project: ProjectState) -> float:
        return self.project_settings.of(project).retrain.quiet

    def promotion(self) -> Promotions:
        """Promotes and rolls back at a person's word."""
        return Promotions(
            self.state,
            self.registry,
            self.project_settings,
            wake=self.due().ask,
            clock=time.time,
        )

    def shared_secret(self) -> str:
        """A secret that all processes share; for form tokens where no password is set."""
        return shared_secret(self.redis, self.settings.redis_prefix)

    def overview(self) -> Overview:
        """What people and programs see of every project."""
        return Overview(
            self.state,
            self.runs,
            self.registry,
            self.project_settings,
            self.server,
            self.standings(),
            self.refresh_records(),
            self.access(),
        )

    def orders(self, overview: Overview) -> Orders:
        """What people order from the page and the API."""
        return Orders(overview, self.runs, self.syncs(), self.promotion())

    def refresh_records(self) -> Records:
        """How each project's refresh of predictions stands, and where it is cancelled."""
        return Records(self.redis, self.settings.redis_prefix)

    def refreshing(self) -> Refreshing:
        """Asks for refreshes of predictions."""
        return Refreshing(
            self.state,
            self.refresh_records(),
            self.registry,
            self.jobs(),
            self.project_settings,
            missing=self.settings.missing_for_label_studio,
            timeout_s=self.settings.run_timeout,
        )

    def refresher(self) -> Refresher:
        """Carries out refreshes, in a worker process."""
        return Refresher(
            self.state,
            self.refresh_records(),
            self.registry,
            self.project_settings,
            self.make_model,
            self.label_studio,
            served=self.server.served,
        )

    def label_studio(
        self, timeout_s: float = 20.0, patience_s: float = 20.0, pause: Callable[[float], None] = time.sleep
    ) -> LabelStudioApi:
        """Label Studio's API; a context manager. Raises `SettingsError` where its address or key is not set.

        The defaults are for callers that hold a lock: who waits longer than it lives would lose it.
        """
        from ml_backend.label_studio import LabelStudioApi  # noqa: PLC0415 - an HTTP client, which the web needs not

        url, key = self.settings.label_studio_url, self.settings.label_studio_api_key
        if url is None or key is None:
            missing = " and ".join(self.settings.missing_for_label_studio)
            raise SettingsError(
                missing, "must be set: Label Studio's address, and a personal access token (Account & Settings there)"
            )
        return LabelStudioApi(url, key.get_secret_value(), timeout_s=timeout_s, patience_s=patience_s, pause=pause)

    def web_processes(self) -> int:
        """How many web processes of this backend live, on whatever machine."""
        return Presence(self.redis, self.settings.redis_prefix).living()

    def connector(self, api: LabelStudioApi) -> Connector:
        """Connects projects of the Label Studio that the settings name."""
        from ml_backend.connecting import own  # noqa: PLC0415 - for commands; the web connects nothing
        from ml_backend.connecting.connector import Connector  # noqa: PLC0415

        return Connector(
            api,
            self.settings.label_studio_url or "",
            own(self.settings),
            self.state,
            self.registry,
            forget=lambda uid: forget(self.state, self.runs, uid, time.time(), "the project was disconnected"),
        )

    @property
    def has_own_fit(self) -> bool:
        """Whether the model is a plain class, whose own `fit` trains."""
        return issubclass(self.model_class, PlainBackend)

    def plain(self) -> PlainState:
        """What plain classes keep in Redis."""
        return PlainState(self.redis, self.settings.redis_prefix)

    def predict_worker(self) -> PredictWorker:
        """Answers web processes that hold no models, in a process of its own."""
        assert isinstance(self.server, PredictionServer), "made without models"  # noqa: S101 - the caller's mistake
        desk = Desk(connect(self.settings, timeout_s=PATIENT_TIMEOUT_S), self.settings.redis_prefix)
        return PredictWorker(self.server, desk, self.backend.check)

    def trainer(self, *, behind: int = 0) -> Trainer:
        """Carries out runs, in a worker process. ``behind``: how far it steps back once a run has begun."""

        @contextlib.contextmanager
        def keep(lease: Lease) -> Iterator[LeaseKeeper]:
            with LeaseKeeper(lease, open_runs, method=self.settings.worker) as keeper:
                # Only now: a keeper that comes last on a busy machine would lose the lease.
                if behind:
                    step_back(behind)
                yield keeper

        kind = PlainTrainer if self.has_own_fit else Trainer
        made = kind(
            self.state,
            self.runs,
            self.registry,
            self.project_settings,
            self.make_model,
            self.settings.data_dir.absolute() / "work",
            keep=keep,
            before=lambda uid: self.syncer().before_training(uid, self.settings.sync_wait),
            promoted=lambda uid, _version: self.refreshing().promoted(uid, time.time()),
            media=self.media.of,
        )
        if isinstance(made, PlainTrainer):
            made.use(self.plain(), self.settings.data_dir.absolute() / "plain", self.settings.keep_versions)
        return made

    def close(self) -> None:
        """Stop background threads and close connections."""
        self.tally.close()
        self.server.close()
        self.media.close()
        self.redis.close()


def open_runs() -> Runs:
    """The runs, with a client of their own, from this process's environment: what keeps a lease needs no more."""
    settings = Settings.from_environment(os.environ)
    client = connect(settings, timeout_s=min(PATIENT_TIMEOUT_S, settings.lease / 6))
    return Runs(client, settings.redis_prefix, settings.lease)


def connect(settings: Settings, *, timeout_s: float = WEB_TIMEOUT_S) -> redis.Redis:
    """A client of the Redis that the settings name; one immediate retry covers a server that was restarted."""
    if settings.redis_url is None:
        raise RuntimeError("no Redis is set: start the private one first")
    return client_of(
        settings.redis_url.get_secret_value(),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        health_check_interval=0,
        protocol=2,
    )


def under_another_server(model_class: type[TrainingBackend]) -> AnotherServer:
    """What a model class needs where label-studio-ml's own server makes its instances; one for each process."""
    return _another_server(os.getpid(), cast("Hashable", model_class))


@functools.cache
def _another_server(_process: int, model_class: type[TrainingBackend]) -> AnotherServer:
    # That server makes an instance for each request, or forks for one: connections must be kept, but not across forks.
    settings = Settings.from_environment(os.environ)
    if settings.redis_url is None:
        raise SettingsError(
            "REDIS_URL", "is not set: under label-studio-ml's server, events reach ml-backend's workers through it"
        )
    return AnotherServer(make_services(settings, model_class=model_class))


class AnotherServer:
    """Events and predictions for instances that we did not make."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._started = False

    def take_event(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """Handle one event, as `TrainingBackend.fit` does."""
        return self._services.backend.fit(event, data)

    def predict_for(
        self, project_id: str, tasks: list[dict[str, Any]], label_config: str, context: dict[str, Any] | None
    ) -> list[list[dict[str, Any]]]:
        """Predictions of the version that serves; the project is the tasks' own, else the only one that is known."""
        with self._lock:
            if not self._started:
                self._services.server.start()
                self._started = True
        wanted = str(tasks[0].get("project") or project_id) if tasks else project_id
        known = self._services.state.uids()
        uids = [one for one in known if one.partition(".")[0] == wanted.partition(".")[0]] if wanted else known
        if len(uids) != 1:
            log.warning("no predictions: %d known projects fit %r", len(uids), wanted)
            return [[] for _ in tasks]
        return self._services.server.predict(uids[0], tasks, label_config, context)


def make_services(
    settings: Settings,
    *,
    timeout_s: float = WEB_TIMEOUT_S,
    model_class: type[TrainingBackend] | None = None,
    models: bool = True,
    media_waiters: int | None = None,
) -> Services:
    """Join all parts. Opens no connection yet; imports the model's module, unless ``models`` is False.

    Without models, predictions are asked of predict workers: for web processes where they are made there.
    ``media_waiters``: how many threads may wait for media at once; any number, if not given.
    """
    client = connect(settings, timeout_s=timeout_s)
    prefix = settings.redis_prefix
    state = State(client, prefix)
    runs = Runs(client, prefix, settings.lease)
    cache = settings.data_dir.absolute() / "cache"
    registry = Registry(settings.store_url, client, prefix, keep=settings.keep_versions, cache=cache)
    project_settings = ProjectSettings(settings.refit)
    chosen = model_class or (find_model(settings.model) if models else find_light(settings.model))
    own_fit = issubclass(chosen, PlainBackend)
    plain = PlainEvents(PlainState(client, prefix), runs, project_settings) if own_fit else None
    way = EventWay(state, runs, project_settings, time.time, first=plain)
    server: PredictionServer | RemotePredictions
    media = make_media(settings, state, media_waiters)

    def set_for(uid: str) -> tuple[Refit, dict[str, Any]]:
        try:
            project = state.load(uid)
        except Unavailable as error:
            log.warning("project %s: a version is loaded with the operator's settings alone: %s", uid, error)
            return settings.refit, {}
        return project_settings.read(project.extra_params if project is not None else "")

    def make(uid: str, label_config: str) -> tuple[TrainingBackend, Strategy]:
        refit, own = set_for(uid)
        made = chosen(str(id_of(uid)), label_config, extra_params=own)
        return made.fetching(media.of(uid)), refit.predictions.strategy

    server = here = PredictionServer(registry, make, client, prefix=prefix, models=settings.max_models)
    if not models:
        # A client of its own: it waits for answers longer than any other call may take.
        server = RemotePredictions(here, Desk(connect(settings, timeout_s=PATIENT_TIMEOUT_S), prefix, quick=client))
        checked = server.check
        chosen = type(chosen.__name__, (chosen,), {"check": lambda _self, config: checked(config)})
    return Services(
        settings=settings,
        redis=client,
        state=state,
        runs=runs,
        registry=registry,
        project_settings=project_settings,
        model_class=chosen,
        backend=chosen(on_event=way.handle),
        server=server,
        media=media,
        tally=Tally(client, prefix),
    )


def make_media(settings: Settings, state: State, waiters: int | None = None) -> Media:
    """What fetches media; it opens no connection before the first file."""
    url, key = settings.label_studio_url, settings.label_studio_api_key
    opened: list[LabelStudioApi] = []

    def authorization(renew: bool) -> Mapping[str, str]:
        from ml_backend.label_studio import LabelStudioApi  # noqa: PLC0415 - an HTTP client, which few web processes need

        if url is None or key is None:
            raise SettingsError(settings.missing_for_label_studio[0], "is not set")
        if not opened:
            opened.append(LabelStudioApi(url, key.get_secret_value(), timeout_s=20.0, patience_s=0.0))
        return opened[0].authorization(renew=renew)

    def close() -> None:
        while opened:
            opened.pop().close()

    listed = [one for one in settings.media_hosts.split(",") if one.strip()]
    cache = Cache(settings.data_dir.absolute() / "media", settings.media_cache, state.tasks_alive)
    return Media(Hosts(url, listed), cache, authorization, closing=close, turns=Turns(waiters))
