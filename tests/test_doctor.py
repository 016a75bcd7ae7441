"""The doctor's own rules: nothing hangs, nothing is swallowed, and what cannot be planted on a whole installation."""

from __future__ import annotations

import importlib.metadata
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ml_backend.bootstrap import make_services
from ml_backend.doctor import Finding, machine
from ml_backend.doctor.examine import run
from ml_backend.doctor.finding import ok
from ml_backend.doctor.redis import skew
from ml_backend.errors import SettingsError
from ml_backend.secret_files import read_secret_files
from ml_backend.settings import Settings
from tests.loopback import speaking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_check_that_hangs_is_a_finding_and_holds_up_nobody() -> None:
    release = threading.Event()

    def hangs() -> Iterator[Finding]:
        release.wait()
        yield ok("never", "")

    began = time.monotonic()
    found = run([("hangs", hangs), ("well", lambda: [ok("well", "it is")])], deadline_s=0.3)
    release.set()
    assert time.monotonic() - began < 5
    assert [(one.check, one.verdict) for one in found] == [("hangs", "unknown"), ("well", "ok")]


def test_checks_wait_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def meets() -> Iterator[Finding]:
        meeting.wait()
        yield ok("met", "")

    assert [one.check for one in run([(str(number), meets) for number in range(3)], deadline_s=20)] == ["met"] * 3


def test_a_check_that_fails_for_a_reason_of_ours_says_it_and_any_other_failure_is_raised() -> None:
    def refuses() -> Iterator[Finding]:
        raise SettingsError("PORT", "is odd")
        yield

    def breaks() -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    (found,) = run([("mine", refuses)], deadline_s=5)
    assert (found.verdict, "PORT: is odd" in found.found) == ("unknown", True)
    with pytest.raises(ZeroDivisionError):
        run([("broken", breaks)], deadline_s=5)


def test_somebody_else_on_the_backends_port_is_a_finding(tmp_path: Path) -> None:
    with speaking(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        told = {"REDIS_URL": "unix:///nowhere", "PORT": str(port), "ML_BACKEND_DATA_DIR": str(tmp_path)}
        services = make_services(Settings.from_environment(told))
        (found,) = machine.answers(services)
        services.close()
    assert (found.check, found.verdict) == ("answers", "problem")


@pytest.mark.parametrize(("ahead", "verdict"), [(0.4, "ok"), (-4.0, "ok"), (6.0, "problem"), (-90.0, "problem")])
def test_clocks_that_are_apart_are_told(ahead: float, verdict: str) -> None:
    assert skew("clock", "Redis", ahead).verdict == verdict


def test_a_flask_that_another_package_pinned_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh,) = machine.packages()
    assert fresh.verdict == "ok"
    versions = {"flask": "1.1.2", "werkzeug": "1.0.1"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    (stale,) = machine.packages()
    assert stale.verdict == "problem"
    assert "flask 1.1.2 and werkzeug 1.0.1" in stale.found


def test_a_secret_is_read_from_its_file_unless_it_is_set_itself(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from the file\n")
    environment = {
        "LABEL_STUDIO_API_KEY_FILE": str(tmp_path / "key"),
        "BASIC_AUTH_PASS": "set",
        "BASIC_AUTH_PASS_FILE": str(tmp_path / "key"),
        "REDIS_URL_FILE": "",
    }
    read_secret_files(environment)
    assert environment["LABEL_STUDIO_API_KEY"] == "from the file"
    assert environment["BASIC_AUTH_PASS"] == "set"
    assert "REDIS_URL" not in environment


def test_a_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BASIC_AUTH_PASS_FILE"):
        read_secret_files({"BASIC_AUTH_PASS_FILE": str(tmp_path / "nobody")})
