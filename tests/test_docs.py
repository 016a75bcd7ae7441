"""The documentation is built strictly, fetches nothing from elsewhere, and its commands, variables and links exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ml_backend.cli.app import app
from ml_backend.events import parse
from ml_backend.settings import SECRETS, Settings, read_extra_params

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# The model author's guide has tests of its own.
OURS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
FENCES = [
    (name, language, body)
    for name, text in OURS.items()
    for language, body in re.findall(r"^ *```(\w+)[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
]
CONSOLE = sorted({line.strip() for _, language, body in FENCES if language == "console" for line in body.splitlines()})
INLINE = sorted({one for text in OURS.values() for one in re.findall(r"`(ml-backend [a-z][^`]*)`", text)})
COMMANDS = [one for one in (*CONSOLE, *INLINE) if "ml-backend " in one]


def command_of(line: str) -> list[str]:
    """The words after ``ml-backend``, whatever stands before it."""
    words = shlex.split(line)
    return words[max(index for index, word in enumerate(words) if word == "ml-backend") + 1 :]


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_exists_and_takes_what_the_page_gives_it(line: str) -> None:
    name, *arguments = command_of(line)
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands
    filled = ["1" if one in {"N", "NUMBER"} else one for one in arguments]
    if not filled and line in INLINE:
        return  # only named
    # Parsed, not run: unknown options, missing values and words too many are errors here.
    commands[name].make_context(name, filled)


def test_the_console_blocks_hold_nothing_that_is_not_looked_at() -> None:
    known = ("uv run ml-backend ", "export ", "docker compose ", "REDIS_PASSWORD=", "curl ")
    assert [line for line in CONSOLE if line and not line.startswith(known)] == []


@pytest.mark.parametrize("line", [one for one in CONSOLE if "docker compose" in one])
def test_compose_commands_name_what_the_compose_file_has(line: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in re.findall(r"\b([A-Z_]+)=", line):
        assert f"${{{name}" in text
    if found := re.search(r"compose exec (\S+)", line):
        assert found.group(1) in compose["services"]


def test_every_variable_that_a_page_names_is_a_setting() -> None:
    settings = (DOCS / "settings.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`([A-Z_]+)`", settings)) | {f"{one}_FILE" for one in SECRETS}
    theirs = {
        "SSRF_PROTECTION_ENABLED",
        "ML_BLOCK_LOCAL_IP",
        "HTTP_PROXY",
        "NO_PROXY",
        "OMP_NUM_THREADS",
        "START_TRAINING",
        "REDIS_PASSWORD",
        "VERSION",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
        "PROJECT_UPDATED",
    }
    named = {
        one
        for page, text in OURS.items()
        if page != "webhooks.md"
        for one in re.findall(r"\b([A-Z]{2,}(?:_[A-Z]+)+)\b", text)
        if not one.startswith("AWS_")
    }
    assert named - known - theirs == set()


@pytest.mark.parametrize("page", ["settings", "api"])
def test_a_page_that_is_made_from_the_code_is_up_to_date(page: str) -> None:
    spec = importlib.util.spec_from_file_location(f"make_{page}", DOCS / f"make_{page}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert OURS[f"{page}.md"] == module.rendered(), f"run docs/make_{page}.py"


def test_the_page_of_the_api_leaves_no_field_unexplained() -> None:
    assert re.findall(r"^\| `.*\|  \|$", OURS["api.md"], re.MULTILINE) == []


def test_every_fact_that_the_code_cites_is_on_the_page_of_facts() -> None:
    told = re.findall(r"^\*\*Fact (\d+)\.\*\*", OURS["label-studio-facts.md"], re.MULTILINE)
    assert len(told) == len(set(told)) == 27
    cited = {
        number: path
        for folder in ("ml_backend", "model", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".lua", ".md"}
        for numbers in re.findall(
            r"\b[Ff]acts?((?:\s+|,\s*|\s+and\s+)\d+(?:(?:,\s*|\s+and\s+)\d+)*)", path.read_text(encoding="utf-8")
        )
        for number in re.findall(r"\d+", numbers)
    }
    assert len(cited) > 20
    assert {number: path for number, path in cited.items() if number not in told} == {}


@pytest.mark.parametrize("body", [body for _, language, body in FENCES if language == "json" and '"refit"' in body])
def test_extra_params_on_a_page_are_taken(body: str) -> None:
    read_extra_params(json.loads(body), Settings.from_environment({}).refit)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^\| (`[A-Z_`, ]+`) \|", OURS["webhooks.md"], re.MULTILINE))))
def test_every_event_in_the_reference_is_read_as_the_reference_says(name: str) -> None:
    project = {"id": 2, "created_at": "2026-11-22T07:51:23Z", "updated_at": "2026-11-22T07:51:23Z", "title": "t"}
    (row,) = [line for line in OURS["webhooks.md"].splitlines() if line.startswith(f"| {name} |")]
    for action in re.findall(r"[A-Z_]+", name):
        annotation = {"id": 1, "task": 1, "result": [], "created_at": "2026-11-22T07:51:23Z"}
        task = {"id": 1, "data": {}, "created_at": "2026-11-22T07:51:23Z", "updated_at": "2026-11-22T07:51:23Z"}
        # The project alone suffices for those about a project, and does no harm to the others.
        body = {"action": action, "project": project, "annotation": annotation, "task": task}
        kind = type(parse(action, body)).__name__
        assert (kind == "Ignored") == ("| nothing" in row), kind


def test_every_event_that_is_read_stands_in_the_reference() -> None:
    source = (ROOT / "ml_backend" / "events" / "reading.py").read_text(encoding="utf-8")
    for action in re.findall(r'^    "([A-Z_]+)": _', source, re.MULTILINE):
        assert f"`{action}`" in OURS["webhooks.md"], action


class Assets(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in {"script", "img", "iframe", "source"}:
            self.found.append(given.get("src", ""))
        if tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.found.append(given.get("href", ""))


def test_it_builds_strictly_and_its_pages_fetch_nothing_from_other_hosts(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(OURS)
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        assert [one for one in assets.found if re.match(r"(https?:)?//", one)] == [], page
    styles = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css")]
    assert styles
    assert not any(re.search(r"url\([\"']?(https?:)?//", one) for one in styles)


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} == set(listed)
