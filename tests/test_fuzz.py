"""Anything that a stranger may send: events, Label Studio's calls as raw bodies, the JSON API by its own document.

ML_BACKEND_TEST_FUZZ is by how much the number of inputs is multiplied; with 50 there are 1,000,000 events and 20,000
requests. ML_BACKEND_TEST_SEED looks somewhere else.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth

from ml_backend.bootstrap import make_services
from ml_backend.errors import BadInput
from ml_backend.events import action_of, parse
from ml_backend.settings import Settings
from ml_backend.web import create_app
from tests.calls import environment, predict_body, setup_body
from tests.mutation import bodies, broken, mutated
from tests.parrot import UID, publish, tasks
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask import Flask

TIMES = float(os.environ.get("ML_BACKEND_TEST_FUZZ", "1"))
SEED = int(os.environ.get("ML_BACKEND_TEST_SEED", "8"))
EVENTS, REQUESTS, EXAMPLES = int(20_000 * TIMES), int(400 * TIMES), int(8 * TIMES)
SLOWEST_S = 5.0
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}
POSTS = ("setup", "predict", "webhook", "train", "versions", "job_status", "delete", "duplicate_model", "validate")

pytestmark = pytest.mark.timeout(300 + 60 * TIMES)


def test_any_mutation_of_an_event_is_an_event_or_names_its_field() -> None:
    dice, samples = random.Random(SEED), bodies()
    refused, unnamed = 0, []
    for number in range(EVENTS):
        body = mutated(dice.choice(samples), dice)
        try:
            parse(action_of(body), body)
        except BadInput as wrong:
            refused += 1
            if not (wrong.field and wrong.reason):
                unnamed.append(str(wrong))
        except Exception as error:
            raise AssertionError(f"input {number}: {json.dumps(body)[:2000]}") from error
    assert unnamed == []
    assert 0 < refused < EVENTS


class Watched:
    """The web in this process over a Valkey that nobody else writes to, so that every write shows."""

    def __init__(self, socket: Path, store: Path, client: redis.Redis) -> None:
        access = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "a key"}
        told = environment(socket, store, BASIC_AUTH_USER="anna", BASIC_AUTH_PASS="secret", **access)
        self.services = make_services(Settings.from_environment(told), timeout_s=5)
        # Counts for metrics are written once a second, whatever was asked for meanwhile.
        self.services.tally.close()
        self.app: Flask = create_app(self.services)
        self._client = client

    def writes(self) -> int:
        """How many changes Valkey has made since it was started."""
        return int(self._client.info("persistence")["rdb_changes_since_last_save"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with running_valkey() as socket, connect(socket, timeout=5) as client:
        watched = Watched(socket, tmp_path_factory.mktemp("store"), client)
        web = watched.app.test_client()
        assert web.post("/setup", json=setup_body(), headers=LOGIN).status_code == 200
        publish(watched.services.registry, "yes")
        yield watched
        watched.services.close()


def test_any_body_of_label_studios_calls_is_answered_or_refused_and_a_refused_one_changes_nothing(
    watched: Watched,
) -> None:
    dice, web = random.Random(SEED), watched.app.test_client()
    samples = [*bodies(), setup_body(), predict_body(tasks("one", "two")), {"project": UID, "job": "5-1795333883-1"}]
    seen: dict[int, int] = {}
    before = watched.writes()
    for number in range(REQUESTS):
        path = dice.choice(POSTS)
        data = json.dumps(mutated(dice.choice(samples), dice)).encode()
        if dice.random() < 0.2:
            data = broken(data, dice)
        kind = dice.choice(["application/json"] * 9 + ["text/plain", "application/json; charset=x", ""])
        began = time.monotonic()
        answer = web.post(f"/{path}", data=data, content_type=kind, headers=LOGIN)
        took = time.monotonic() - began
        told = f"request {number}: POST /{path} ({kind}) {data[:2000]!r}: {answer.status} {answer.text[:500]}"
        assert answer.status_code < 500, told
        assert took < SLOWEST_S, told
        after = watched.writes()
        assert answer.status_code < 400 or after == before, told
        before = after
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert {200, 400, 415} <= seen.keys(), seen


def test_any_call_of_the_json_api_that_its_document_allows_or_forbids_is_answered_as_it_says(watched: Watched) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", watched.app, headers=LOGIN)
    sent = 0
    for operation in schema.get_all_operations():
        sent += _call(operation.ok(), watched)
    assert sent >= EXAMPLES


def _call(operation: Any, watched: Watched) -> int:
    sent = 0

    @settings(max_examples=max(1, EXAMPLES), suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(case=cases_of(operation))
    def one(case: Any) -> None:
        nonlocal sent
        sent += 1
        before, began = watched.writes(), time.monotonic()
        answer = case.call(headers=LOGIN)
        assert time.monotonic() - began < SLOWEST_S
        case.validate_response(answer, excluded_checks=[ignored_auth])
        assert answer.status_code < 500
        assert answer.status_code < 400 or watched.writes() == before, case.as_curl_command()

    one()
    return sent


def cases_of(operation: Any) -> Any:
    """Requests of one call: as the document allows them, and as it forbids them."""
    allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    return allowed | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
