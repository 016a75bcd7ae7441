"""Each benchmark's short form works: it measures something and reports it. How fast anything is, is not asked here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import active_learning, http, memory, peer, predict, scale, soak, state, submit, versions
from benchmarks.common import Options, Row, alternate, compared, report, single

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.label_studio.server import RealLabelStudio

SHORT = Options(rounds=1, short=True, as_json=True)


def only(*parts: str) -> Options:
    return Options(rounds=1, short=True, as_json=True, only=frozenset(parts))


def assert_measured(rows: Sequence[Row]) -> None:
    assert rows
    for row in rows:
        assert row.ours > 0, row
        assert row.peer is None or row.peer > 0, row


def test_calls_beside_bare_flask() -> None:
    assert_measured(http.measured(only("webhook", "big", "setup")))


def test_the_webhook_while_a_run_trains() -> None:
    assert_measured(http.measured(only("training")))


def test_labels_to_a_new_version_and_the_start() -> None:
    assert_measured(versions.measured(SHORT))


def test_predictions_beside_bare_flask_and_label_studio_ml_under_its_own_pins() -> None:
    assert_measured(predict.measured(SHORT))


def test_the_webhook_beside_label_studio_ml() -> None:
    assert_measured(peer.measured(SHORT))


def test_memory() -> None:
    assert_measured(memory.measured(SHORT))


def test_a_soak_of_seconds_loses_nothing_and_counts_right() -> None:
    rows = {row.what: row for row in soak.measured(0.15, SHORT)}
    assert rows["events taken"].ours > 0
    assert rows["requests for 20 predictions"].ours > 0
    assert rows["failed requests and runs"].ours == 0, rows["failed requests and runs"].note
    assert rows["counters that differ at the end"].ours == 0, rows["counters that differ at the end"].note
    assert any(what.startswith("valkey") for what in rows)


def test_memory_and_record_cost_of_the_training_set() -> None:
    assert_measured(state.measured(SHORT))


def test_what_an_annotator_feels_of_submit(label_studio: RealLabelStudio, tmp_path: Path) -> None:
    assert_measured(submit.measured(only("rest"), label_studio, tmp_path))


def test_whether_active_learning_pays() -> None:
    assert_measured(active_learning.rows(active_learning.measured(SHORT)))


def test_with_how_many_labels_a_curve_reaches_an_accuracy() -> None:
    assert active_learning.reached({100: 0.5, 200: 0.7, 300: 0.8}, 0.6) == pytest.approx(150)
    assert active_learning.reached({100: 0.5, 200: 0.7}, 0.4) == 100
    assert active_learning.reached({100: 0.5, 200: 0.7}, 0.9) is None


def test_more_processes_on_one_redis() -> None:
    assert_measured(scale.measured(SHORT))


def test_rounds_alternate_forwards_and_backwards() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate(2, ours=lambda: measure("ours"), peer=lambda: measure("peer"))
    assert order == ["ours", "peer", "peer", "ours"]
    assert found == {"ours": [1.0, 4.0], "peer": [2.0, 3.0]}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    row = compared("x", [1.0, 9.0, 2.0], [2.0, 3.0, 2.0], "s", at_most=1.5)
    assert (row.ours, row.peer, row.ratio, row.met) == (2.0, 2.0, 1.0, True)
    assert single("x", [1.0, 3.0, 2.0], "s", at_least=2.5).met is False


@pytest.mark.parametrize("as_json", [True, False])
def test_a_report_names_every_row(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    report("title", [single("a row", [1.5], "ms", at_most=2, note="a note")], Options(1, True, as_json))
    said = capsys.readouterr().out
    assert all(part in said for part in ("title", "a row", "1.5", "a note"))
