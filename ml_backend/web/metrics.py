"""`/metrics`: Prometheus text for those who ask for it, an empty JSON object for everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric
    from werkzeug.datastructures import MIMEAccept

    from ml_backend.web.ports import Services

_ASKED_FOR = ("text/plain", "application/openmetrics-text")


def wants_prometheus(accept: MIMEAccept, form: str | None) -> bool:
    """Whether the caller named a Prometheus format, as Prometheus itself does; ``*/*`` names none."""
    return form == "prometheus" or (
        form is None and any(value.partition(";")[0].lower() in _ASKED_FOR for value in accept.values())
    )


def render(services: Services) -> tuple[bytes, str]:
    """(text, content type). Numbers come from Redis, so that they are the same from every web process.

    Raises `Unavailable`.
    """
    # Only those who scrape pay for it.
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Projects(services))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Projects:
    """Collects one sample of each project."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> list[Metric]:
        """Nothing ahead of time; called by the registry."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read every project once; called by the registry."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        info = GaugeMetricFamily("ml_backend_info", "What runs here.", labels=["version", "model"])
        info.add_metric([__version__, self._services.model_class.__name__], 1)
        counters = GaugeMetricFamily(
            "ml_backend_project_counter", "Label Studio's counters of a project.", labels=["project", "counter"]
        )
        changed = GaugeMetricFamily(
            "ml_backend_changed_annotations", "Annotations changed since the last training.", labels=["project"]
        )
        drift = GaugeMetricFamily(
            "ml_backend_missing_annotations",
            "Annotations that only Label Studio has, by its totals.",
            labels=["project"],
        )
        running = GaugeMetricFamily("ml_backend_training", "Whether a training runs.", labels=["project"])
        waiting = GaugeMetricFamily("ml_backend_training_waits", "Whether a training waits.", labels=["project"])
        state = self._services.state
        for uid in state.uids():
            project = state.load(uid)
            if project is None or project.deleted_at is not None:
                continue
            for name, value in project.counters.items():
                counters.add_metric([uid, name], value)
            changed.add_metric([uid], project.training.changed)
            drift.add_metric([uid], project.missing)
            running.add_metric([uid], project.training.running is not None)
            waiting.add_metric([uid], project.waiting is not None)
        yield from (info, counters, changed, drift, running, waiting)
