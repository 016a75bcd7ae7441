"""A large import is read in brief: the same event comes of it, and what is wrong with it is still named."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from ml_backend.errors import BadInput
from ml_backend.events import parse
from ml_backend.web.bodies import read_object
from tests import samples


def read(body: bytes, *, brief: bool = True) -> dict[str, Any]:
    environ = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return read_object(environ, len(body), brief=brief)


def changed(at: int, **values: Any) -> bytes:
    body = orjson.loads(samples.import_of_5000())
    body["tasks"][at].update(values)
    return orjson.dumps(body)


def test_a_large_import_in_brief_is_the_same_event() -> None:
    body = samples.import_of_5000()
    brief, whole = read(body), read(body, brief=False)
    assert parse("TASKS_CREATED", brief) == parse("TASKS_CREATED", whole)
    assert (len(whole["tasks"]), set(brief["tasks"][0])) == (5000, {"id", "updated_at"})


@pytest.mark.parametrize(("field", "value"), [("updated_at", 5), ("updated_at", "yesterday")])
def test_what_is_wrong_with_one_of_its_tasks_is_named(field: str, value: object) -> None:
    with pytest.raises(BadInput) as wrong:
        parse("TASKS_CREATED", read(changed(4000, **{field: value})))
    assert wrong.value.field == f"tasks[4000].{field}"


def test_a_task_without_a_date_is_an_event_all_the_same() -> None:
    assert parse("TASKS_CREATED", read(changed(4000, updated_at=None))).action == "TASKS_CREATED"


def test_another_large_event_is_read_in_full() -> None:
    body = {"action": "ANNOTATIONS_CREATED", "tasks": [{"id": 1, "data": {"text": "x" * 300_000}}]}
    assert read(orjson.dumps(body)) == body


def test_a_large_import_that_is_cut_off_is_no_json() -> None:
    with pytest.raises(BadInput, match="is not JSON at line 1 column"):
        read(samples.import_of_5000()[:-2])


@pytest.mark.parametrize(
    "title", ["[" * 2000 + "]" * 2000, "NaN", "1e999", '"\\ud800"', '"\\udc00\\ud800"'], ids=lambda title: title[:12]
)
def test_what_is_no_json_here_is_none_in_a_large_import_either(title: str) -> None:
    body = samples.import_of_5000().replace(b'"project": {', b'"project": {"more": %s,' % title.encode(), 1)
    assert title.encode() in body
    with pytest.raises(BadInput, match="is not JSON at line 1 column"):
        read(body)


def test_a_large_import_whose_project_is_nested_deeply_is_read_like_a_small_one() -> None:
    deep = b"[" * 1000 + b"]" * 1000
    body = samples.import_of_5000().replace(b'"project": {', b'"project": {"more": %s,' % deep, 1)
    assert deep in body
    assert parse("TASKS_CREATED", read(body)) == parse("TASKS_CREATED", read(samples.import_of_5000()))
