"""What comes along: the stale pins of label-studio-ml stay out, and the workflows hold to their own rules."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_a_plain_installation_brings_no_label_studio_ml() -> None:
    needs = importlib.metadata.requires("label-studio-refit") or []
    assert [one for one in needs if one.startswith("label-studio-ml")] != []
    assert all("extra ==" in one for one in needs if one.startswith("label-studio-ml"))


def test_the_pins_of_label_studio_ml_are_overridden_here() -> None:
    assert int(importlib.metadata.version("flask").split(".")[0]) >= 3
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("attr")


def test_the_audit_looks_at_what_the_wheel_brings_and_at_what_the_image_has() -> None:
    audit = (ROOT / ".ci" / "audit").read_text(encoding="utf-8")
    image = re.search(r"uv sync (--no-editable .*?) \$", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert image is not None
    assert f"uv sync --quiet {image[1]}\n" in audit
    assert len(re.findall(r"^uvx pip-audit@\S+ --strict ", audit, re.MULTILINE)) == 2
    assert any(".ci/audit" in one.read_text(encoding="utf-8") for one in WORKFLOWS)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_starts_without_rights_and_pins_what_it_uses(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    for used in re.findall(r"uses: (\S+)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
    for script in re.findall(r"run: (\.ci/\w+)", text):
        assert os.access(ROOT / script, os.X_OK), script


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    ran = subprocess.run(["zizmor", "--offline", *WORKFLOWS], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
