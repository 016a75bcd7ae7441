"""Metrics: what they say, that they are the same from every process, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ml_backend.errors import Unavailable
from ml_backend.overview import Overview, views
from ml_backend.registry import Registry
from ml_backend.tally import EVERY_S, SECONDS, Tally
from ml_backend.web import create_app
from tests.calls import SENTIMENT, event, predict_body, services_on
from tests.parrot import UID, publish, tasks
from tests.running import wait_until
from tests.valkey import connect

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services
    from ml_backend.runs import Lease

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD = DOCS / "grafana-dashboard.json"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
CREATED_AT = "2026-11-22T07:51:23.096964Z"


@pytest.fixture
def services(services: Services) -> Services:
    services.state.setup(UID, SENTIMENT, None, time.time())
    return services


def annotated(**project: Any) -> dict[str, Any]:
    body = event("ANNOTATION_CREATED")
    body["project"].update(id=5, created_at=CREATED_AT, min_annotations_to_start_training=1000, **project)
    return body


def scrape(web: FlaskClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels."""
    answer = web.get("/metrics", headers={"Accept": "text/plain"})
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Any, name: str, **labels: str) -> float | None:
    found: float | None = samples.get((f"ml_backend_{name}", frozenset(labels.items())))
    return found


def begin(services: Services) -> tuple[Lease, float]:
    """A run that trains, and when it began."""
    runs = services.runs
    now = runs.time()
    run_id = runs.request(UID, trigger="test", reason="test", due=now, click=True, now=now).id
    runs.dispatch(UID, now, lambda *_: False)
    lease = runs.start(UID, run_id, "worker", now)
    assert lease is not None
    return lease, now


def carry_out(services: Services, outcome: Any, seconds: float) -> None:
    lease, began = begin(services)
    services.runs.finish(lease, outcome, reason="over", now=began + seconds)


def test_events_are_counted_by_action_and_outcome(web: FlaskClient) -> None:
    web.post("/webhook", json=annotated())
    web.post("/webhook", json=annotated())
    web.post("/webhook", json={"action": "ANNOTATION_CREATED", "annotation": 7})
    web.post("/webhook", json={"action": "MOON_ROSE|x"})
    samples = scrape(web)
    assert value(samples, "events_total", action="ANNOTATION_CREATED", outcome="recorded") == 1
    assert value(samples, "events_total", action="ANNOTATION_CREATED", outcome="unchanged") == 1
    assert value(samples, "events_total", action="ANNOTATION_CREATED", outcome="refused") == 1
    assert value(samples, "events_total", action="other", outcome="ignored") == 1


def test_counts_of_two_processes_add_up_and_both_tell_the_same(
    redis_socket: Path, services: Services, web: FlaskClient, tmp_path: Path
) -> None:
    with services_on(redis_socket, tmp_path) as others:
        other = create_app(others).test_client()
        web.post("/webhook", json=annotated())
        for _ in range(2):
            other.post("/webhook", json=annotated())
        services.tally.flush()
        others.tally.flush()
        events = [{key: count for key, count in scrape(one).items() if "events" in key[0]} for one in (web, other)]
    assert events[0] == events[1]
    assert sum(events[0].values()) == 3


def test_runs_are_counted_by_outcome_with_their_seconds(web: FlaskClient, services: Services) -> None:
    for outcome, seconds in (("succeeded", 2.0), ("succeeded", 4.0), ("failed", 1.0)):
        carry_out(services, outcome, seconds)
    samples = scrape(web)
    assert value(samples, "runs_total", project=UID, outcome="succeeded") == 2
    assert value(samples, "runs_total", project=UID, outcome="failed") == 1
    assert value(samples, "run_seconds_sum", project=UID, outcome="succeeded") == pytest.approx(6.0, abs=0.01)
    assert value(samples, "run_seconds_count", project=UID, outcome="succeeded") == 2


def test_decisions_are_counted_for_longer_than_they_are_kept(web: FlaskClient, services: Services) -> None:
    for number in range(250):
        services.state.decided(UID, "wait", f"reason {number}", float(number))
    assert value(scrape(web), "decisions_total", project=UID, kind="wait") == 250


def test_predictions_are_counted_and_timed(web: FlaskClient, services: Services) -> None:
    publish(services.registry, "yes")
    web.post("/predict", json=predict_body(tasks("one", "nothing", "two")))
    samples = scrape(web)
    assert value(samples, "predicted_tasks_total", outcome="answered") == 2
    assert value(samples, "predicted_tasks_total", outcome="empty") == 1
    assert value(samples, "prediction_seconds_count") == 1
    assert value(samples, "prediction_seconds_bucket", le="+Inf") == 1
    took = value(samples, "prediction_seconds_sum")
    assert took is not None
    assert 0 < took < SECONDS[-1]


def test_a_project_tells_its_progress_drift_versions_and_what_serves(web: FlaskClient, services: Services) -> None:
    web.post("/webhook", json=annotated(total_annotations_number=7))
    publish(services.registry, "yes")
    publish(services.registry, "no", promote=False)
    samples = scrape(web)
    assert value(samples, "next_training_have", project=UID) == 1
    assert value(samples, "next_training_need", project=UID) == 1000
    assert value(samples, "missing_annotations", project=UID) == 6
    assert value(samples, "drift", project=UID, counter="total_annotations_number") == 6
    assert value(samples, "serving_version", project=UID) == 1
    assert value(samples, "versions", project=UID, status="standby") == 1
    assert value(samples, "queue_jobs", queue="train") == 0
    assert value(samples, "store_up") == 1


def test_a_version_store_that_is_away_leaves_everything_else(
    web: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_backend.errors import StoreUnavailable

    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Registry, "versions", away)
    samples = scrape(web)
    assert value(samples, "store_up") == 0
    assert value(samples, "changed_annotations", project=UID) == 0


# --- the tally --------------------------------------------------------------------------------------------------------


def test_counts_reach_redis_by_themselves(redis_socket: Path, redis_client: redis.Redis) -> None:
    tally = Tally(connect(redis_socket, timeout=5))
    tally.add("events", "a", "b")
    wait_until(lambda: redis_client.hget("mlb:tally", "events|a|b") == b"1", 20 * EVERY_S, "the count is in Redis")
    tally.close()


def test_what_cannot_be_written_is_kept_for_the_next_time(redis_client: redis.Redis, tmp_path: Path) -> None:
    tally = Tally(redis.Redis(unix_socket_path=str(tmp_path / "nobody")))
    tally.add("events", by=3)
    with pytest.raises(Unavailable):
        tally.flush()
    tally._redis = redis_client
    tally.add("events")
    assert tally.read() == {"events": {(): 4.0}}
    tally.close()


# --- the dashboard ----------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(web: FlaskClient, services: Services) -> str:
    """A scrape in which every metric has a sample, one of a training that runs included."""
    web.post("/webhook", json=annotated(total_annotations_number=7))
    publish(services.registry, "yes")
    web.post("/predict", json=predict_body(tasks("one")))
    carry_out(services, "succeeded", 1.0)
    services.state.decided(UID, "wait", "why", 1.0)
    begin(services)
    scores = views.Score(name="accuracy", value=0.9, compared_on=40, informative=False)
    version = services.overview().versions(UID)[0].model_copy(update={"scores": {"accuracy": 0.9}, "score": scores})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Overview, "versions", lambda *_: [version])
        text: str = web.get("/metrics", headers={"Accept": "text/plain"}).text
    return text


def asked_of(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics that a query names, with the labels that it looks at."""
    found = re.findall(r"(ml_backend_\w+)(\{[^}]*\})?", expression)
    return [(metric, set(re.findall(r"(\w+)\s*[=!]", selector))) for metric, selector in found]


def test_the_dashboard_asks_only_for_metrics_and_labels_that_are_there(busy: str) -> None:
    there = labels_of(busy)
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(asked) > 20
    for expression in [*asked, *(one.get("definition", "") for one in dashboard["templating"]["list"])]:
        for metric, labels in asked_of(expression):
            assert metric in there, f"{metric} of {expression}"
            assert labels <= there[metric], expression


# --- the page of metrics ----------------------------------------------------------------------------------------------


def labels_of(text: str) -> dict[str, set[str]]:
    """The labels of every sample's name."""
    there: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    return there


def test_the_page_of_metrics_names_exactly_what_is_there_with_its_type_and_labels(busy: str) -> None:
    told = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(ml_backend_\w+)` \| (\w+) \|([^|]*)\|", PAGE, re.MULTILINE)
    }
    there = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", busy, re.MULTILINE):
        sampled = [one for one in labels_of(busy).items() if one[0] in {name, f"{name}_count"}]
        assert sampled, name
        there[name] = (kind, frozenset(sampled[0][1]))
    assert told == there


def test_the_alerts_on_the_page_ask_only_for_metrics_and_labels_that_are_there(busy: str) -> None:
    there = labels_of(busy)
    rules = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1])["groups"][0]["rules"]
    for rule in rules:
        asked = asked_of(rule["expr"])
        assert asked or rule["expr"].startswith("up{"), rule
        for metric, labels in asked:
            assert labels <= there[metric], rule
    named = re.findall(r"\| `([A-Z][A-Za-z]+)` \|$", PAGE, re.MULTILINE)
    assert sorted([*named, "BackendAway"]) == sorted(rule["alert"] for rule in rules)
