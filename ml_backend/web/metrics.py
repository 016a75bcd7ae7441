"""`/metrics`: Prometheus text for those who ask for it, an empty JSON object for everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ml_backend import __version__
from ml_backend.errors import RegistryError
from ml_backend.overview.reading import system_view
from ml_backend.tally import histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric
    from werkzeug.datastructures import MIMEAccept

    from ml_backend.overview import Overview
    from ml_backend.overview.views import Project, Version
    from ml_backend.web.ports import Services

EVENTS, PREDICTION, PREDICTED = "events", "prediction_seconds", "predicted_tasks"

_ASKED_FOR = ("text/plain", "application/openmetrics-text")
_ACTIONS = frozenset(
    {
        *(f"ANNOTATION_{what}" for what in ("CREATED", "UPDATED", "DELETED")),
        *(f"{what}_{how}" for what in ("ANNOTATIONS", "TASK", "TASKS") for how in ("CREATED", "DELETED")),
        *(f"{what}_{how}" for what in ("PROJECT", "LABEL_LINK") for how in ("CREATED", "UPDATED", "DELETED")),
        "ANNOTATIONS_UPDATED",
        "START_TRAINING",
    }
)
_OUTCOMES = frozenset(
    {"training", "recorded", "unchanged", "ignored", "queued", "joined", "refused", "unanswered", "failed"}
)


def event_labels(action: str, outcome: object) -> tuple[str, str]:
    """(action, outcome) as labels: whoever invents actions cannot invent time series."""
    name = action.upper().replace(" ", "_")
    return name if name in _ACTIONS else "other", str(outcome) if outcome in _OUTCOMES else "other"


def wants_prometheus(accept: MIMEAccept, form: str | None) -> bool:
    """Whether the caller named a Prometheus format, as Prometheus itself does; ``*/*`` names none."""
    return form == "prometheus" or (
        form is None and any(value.partition(";")[0].lower() in _ASKED_FOR for value in accept.values())
    )


def render(services: Services, overview: Overview) -> tuple[bytes, str]:
    """(text, content type). Numbers come from Redis, so that they are the same from every web process.

    Raises `Unavailable`.
    """
    # Only those who scrape pay for it.
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Everything(services, overview))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Gauge(NamedTuple):
    """A gauge of each project; ``read`` gives its samples: further label values, and the number."""

    name: str
    help: str
    read: Callable[[Project], Iterable[tuple[tuple[str, ...], float]]]
    labels: tuple[str, ...] = ()


def _one(value: float) -> list[tuple[tuple[str, ...], float]]:
    return [((), value)]


_GAUGES = (
    _Gauge(
        "project_counter",
        "Label Studio's counters of a project.",
        lambda one: [((name,), value) for name, value in one.counters.model_dump().items()],
        ("counter",),
    ),
    _Gauge("project_info", "The title of a project.", lambda one: [((one.title,), 1)], ("title",)),
    _Gauge(
        "changed_annotations",
        "Annotations changed since the last training.",
        lambda one: _one(one.training_set.changed),
    ),
    _Gauge(
        "trainable_annotations",
        "Annotations that a training would see.",
        lambda one: _one(one.training_set.trainable),
    ),
    _Gauge(
        "next_training_have", "Annotations that count towards the next training.", lambda one: _one(one.progress.have)
    ),
    _Gauge("next_training_need", "Annotations that the next training needs.", lambda one: _one(one.progress.need)),
    _Gauge(
        "missing_annotations",
        "Annotations that only Label Studio has, by its totals.",
        lambda one: _one(one.drift.missing),
    ),
    _Gauge(
        "drift",
        "Label Studio's counter minus ours, where they differ.",
        lambda one: [((name,), value) for name, value in one.drift.differences.items()],
        ("counter",),
    ),
    _Gauge("training", "Whether a training runs.", lambda one: _one(one.running is not None)),
    _Gauge(
        "training_fraction",
        "How far the training is that runs.",
        lambda one: _one(one.running.fraction) if one.running else [],
    ),
    _Gauge("training_waits", "Whether a training waits.", lambda one: _one(one.waiting is not None)),
    _Gauge("training_paused", "Whether automatic training is paused.", lambda one: _one(one.paused is not None)),
    _Gauge(
        "serving_version",
        "The number of the version that must serve.",
        lambda one: _one(one.serving.number) if one.serving else [],
    ),
    _Gauge(
        "serving_ready",
        "Whether every web process serves the version that must serve.",
        lambda one: _one(one.serving.ready) if one.serving else [],
    ),
    _Gauge("load_errors", "Web processes that could not load a version.", lambda one: _one(len(one.load_errors))),
)


class _Everything:
    """Collects all samples of one scrape."""

    def __init__(self, services: Services, overview: Overview) -> None:
        self._services = services
        self._overview = overview

    def describe(self) -> list[Metric]:
        """Nothing ahead of time; called by the registry."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything once; called by the registry."""
        projects = [one for one in self._overview.projects() if one.connected]
        yield from self._of_the_backend()
        yield from self._of_events()
        yield from _of_projects(projects)
        yield from self._of_runs(projects)
        yield from self._of_versions(projects)

    def _of_the_backend(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily as Gauge  # noqa: PLC0415

        model = self._services.model_class.__name__
        info = Gauge("ml_backend_info", "What runs here.", labels=["version", "model"])
        info.add_metric([__version__, model], 1)
        jobs = Gauge("ml_backend_queue_jobs", "Jobs that wait in a queue.", labels=["queue"])
        workers = Gauge("ml_backend_queue_workers", "Live workers of a queue.", labels=["queue"])
        for name, queue in system_view(__version__, model, None, self._services.jobs()).queues.items():
            jobs.add_metric([name], queue.waiting)
            workers.add_metric([name], queue.workers)
        yield from (info, jobs, workers)

    def _of_events(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily  # noqa: PLC0415

        counted = self._services.tally.read()
        events = CounterMetricFamily(
            "ml_backend_events", "Events that were answered, by what came of them.", labels=["action", "outcome"]
        )
        for labels, value in sorted(counted.get(EVENTS, {}).items()):
            events.add_metric(labels, value)
        tasks = CounterMetricFamily("ml_backend_predicted_tasks", "Tasks by their predictions.", labels=["outcome"])
        for labels, value in sorted(counted.get(PREDICTED, {}).items()):
            tasks.add_metric(labels, value)
        seconds = HistogramMetricFamily("ml_backend_prediction_seconds", "Seconds that a call for predictions took.")
        buckets, total = histogram(counted.get(PREDICTION, {}))
        seconds.add_metric([], buckets, total)
        yield from (events, tasks, seconds)

    def _of_runs(self, projects: list[Project]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter  # noqa: PLC0415
        from prometheus_client.core import SummaryMetricFamily  # noqa: PLC0415

        runs = Counter("ml_backend_runs", "Trainings that are over, by outcome.", labels=["project", "outcome"])
        seconds = SummaryMetricFamily(
            "ml_backend_run_seconds", "Seconds that trainings took, by outcome.", labels=["project", "outcome"]
        )
        decisions = Counter("ml_backend_decisions", "Decisions, by kind.", labels=["project", "kind"])
        for project in projects:
            for status, (count, took) in sorted(self._services.runs.totals(project.uid).items()):
                runs.add_metric([project.uid, status], count)
                seconds.add_metric([project.uid, status], count, took)
            for kind, count in sorted(self._services.state.decided_so_far(project.uid).items()):
                decisions.add_metric([project.uid, kind], count)
        yield from (runs, seconds, decisions)

    def _of_versions(self, projects: list[Project]) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily as Gauge  # noqa: PLC0415

        up = Gauge("ml_backend_store_up", "Whether the version store can be read.")
        scores = Gauge(
            "ml_backend_serving_score", "Scores of the version that must serve.", labels=["project", "score", "basis"]
        )
        kept = Gauge("ml_backend_versions", "Versions that are kept, by status.", labels=["project", "status"])
        readable = True
        for project in projects:
            try:
                versions = self._overview.versions(project.uid)
            except RegistryError:
                readable = False
                continue
            for status in ("serving", "standby", "kept aside"):
                kept.add_metric([project.uid, status], sum(one.status == status for one in versions))
            for serving in (one for one in versions if one.status == "serving"):
                for labels, value in _scores(serving):
                    scores.add_metric([project.uid, *labels], value)
        up.add_metric([], readable)
        yield from (up, scores, kept)


def _of_projects(projects: list[Project]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    for gauge in _GAUGES:
        family = GaugeMetricFamily(f"ml_backend_{gauge.name}", gauge.help, labels=["project", *gauge.labels])
        for project in projects:
            for labels, value in gauge.read(project):
                family.add_metric([project.uid, *labels], value)
        yield family


def _scores(version: Version) -> Iterator[tuple[tuple[str, str], float]]:
    for basis, scores in (("unseen", version.scores), ("information", version.information)):
        for name, value in scores.items():
            yield (name, basis), value
