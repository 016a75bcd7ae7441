"""The Dockerfile and docker-compose.yml against the code: commands, ports, variables and paths that really exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_backend.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OURS = ("ml-backend", "worker")
FILLED = {"REDIS_PASSWORD": "secret", "BASIC_AUTH_PASS": "hidden"}


def environment(service: str) -> dict[str, str]:
    """A service's variables, filled in as docker compose does."""

    def fill(found: re.Match[str]) -> str:
        name, default = found.group(1), found.group(2) or ""
        return FILLED.get(name, default[2:] if default.startswith(":-") else "")

    given = COMPOSE["services"][service]["environment"]
    return {name: re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", fill, value) for name, value in given.items()}


@pytest.mark.parametrize("service", OURS)
def test_each_of_our_services_runs_a_command_that_exists(service: str) -> None:
    asked = [sys.executable, "-P", "-m", "ml_backend.cli", *COMPOSE["services"][service]["command"], "--help"]
    assert subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("service", OURS)
def test_its_variables_are_settings_and_mean_what_they_say(service: str) -> None:
    settings = Settings.from_environment(environment(service))
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://:secret@valkey:6379/0"
    assert settings.label_studio_url == "http://label-studio:8080"
    assert settings.credentials == ("label-studio", "hidden")


def test_the_store_lies_in_the_volume_that_both_share() -> None:
    for service in OURS:
        assert Settings.from_environment(environment(service)).store_url.startswith("/data/")
        assert COMPOSE["services"][service]["volumes"] == ["backend-data:/data"]


def test_the_port_that_is_exposed_is_the_one_the_image_serves() -> None:
    assert COMPOSE["services"]["ml-backend"]["expose"] == ["9090"]
    assert Settings.from_environment(image_environment()).port == 9090
    assert "EXPOSE 9090" in DOCKERFILE


def test_the_image_serves_other_machines_from_its_volume_and_not_as_root() -> None:
    settings = Settings.from_environment(image_environment())
    assert (settings.host, settings.data_dir) == ("0.0.0.0", Path("/data"))
    assert re.search(r"^USER (?!root|0)", DOCKERFILE, re.MULTILINE)


def test_the_image_starts_the_program_that_the_package_installs() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert (json.loads(entry), json.loads(command)) == (["ml-backend"], ["start"])


def test_everything_it_copies_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / one).exists() for one in line.split()[:-1]), line


def test_the_store_keeps_every_acknowledged_write_and_asks_for_a_password() -> None:
    command = COMPOSE["services"]["valkey"]["command"][-1]
    for setting in ("requirepass %s", "appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert setting in command


def test_label_studio_may_reach_a_private_address() -> None:
    given = COMPOSE["services"]["label-studio"]["environment"]
    assert given == {"SSRF_PROTECTION_ENABLED": "false", "ML_BLOCK_LOCAL_IP": "false"}


def image_environment() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())
