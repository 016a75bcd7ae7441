"""What the README says is so: its commands exist, its settings are read, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_backend.settings import Settings, read_extra_params

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(uv run .+)$", README, re.MULTILINE)


def test_it_names_the_two_commands_first() -> None:
    assert COMMANDS[:2] == ["uv run ml-backend start", "uv run pytest"]


@pytest.mark.parametrize("command", [one for one in COMMANDS if "ml-backend" in one])
def test_each_command_and_each_of_its_options_exists(command: str) -> None:
    _, _, _, subcommand, *options = command.split()
    asked = [sys.executable, "-P", "-m", "ml_backend.cli", subcommand, "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in options if option.startswith("--"))


def test_the_environment_variables_it_shows_are_settings() -> None:
    shown = dict(re.findall(r"`(ML_BACKEND_[A-Z_]+)=([^`]+)`", README))
    assert shown
    assert Settings.from_environment(shown).retrain.every == 50


def test_the_extra_params_it_shows_are_taken() -> None:
    (shown,) = re.findall(r"`(\{\"refit\".+?\}\}\})`", README)
    refit, own = read_extra_params(shown, Settings.from_environment({}).refit)
    assert (refit.retrain.every, refit.promote.when, own) == (50, "better", {})


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_each_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()
