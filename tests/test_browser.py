"""The status page in a real browser, while real workers train: what moves, what can be pressed, what axe says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from tests.running import RunningBackend
from tests.wheel import UID, annotated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MODEL = f"{Path(__file__).parent / 'models' / 'led.py'}:Led"
PATIENCE_MS = 60_000
HOME = f"/projects/{UID}"

expect.set_options(timeout=PATIENCE_MS)


class Watched:
    """A visitor whose every request and complaint is noted."""

    def __init__(self, context: BrowserContext, backend: RunningBackend) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.base = f"http://127.0.0.1:{backend.port}"
        self.user, _, self.password = urlsplit(backend.url).netloc.partition("@")[0].partition(":")

    def _note(self, said: ConsoleMessage) -> None:
        # On a busy machine Redis may take longer than a request waits for it: the page says so and goes on.
        if said.type == "error" and "status of 503" not in said.text:
            self.complaints.append(said.text)

    def sign_in(self, path: str) -> None:
        self.page.goto(self.base + path)
        self.page.get_by_label("User").fill(self.user)
        self.page.get_by_label("Password").fill(self.password)
        self.page.get_by_role("button", name="Sign in").click()

    def press(self, name: str) -> None:
        """With the keyboard alone."""
        self.page.get_by_role("button", name=name, exact=True).press("Enter")

    def serious(self) -> list[str]:
        """What axe finds that keeps people out."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['html'][:160]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]

    def wider_than_the_screen(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


class Stand:
    """A running backend with a model that is led by a file."""

    def __init__(self, folder: Path) -> None:
        self._fraction = folder / "fraction"
        self.lead(0.2)
        self.backend = RunningBackend(
            folder / "data",
            arguments=[MODEL],
            environment={
                "TEST_FRACTION": str(self._fraction),
                "ML_BACKEND_TICK": "0.1",
                "ML_BACKEND_RETRAIN_QUIET": "0.2",
                "ML_BACKEND_WEB_WORKERS": "1",
                "PYTHONPATH": str(Path(__file__).parent.parent),
            },
        )

    def lead(self, fraction: float) -> None:
        fresh = self._fraction.with_suffix(".fresh")
        fresh.write_text(str(fraction))
        fresh.rename(self._fraction)

    def annotate(self, numbers: range) -> None:
        for number in numbers:
            self.backend.posted("/webhook", annotated(number))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "install chromium"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("browser"))
    with made.backend:
        yield made
        made.lead(1)


def bar(page: Page) -> float:
    return float(page.locator("progress.busy").get_attribute("value") or 0)


def serving(page: Page, version: str) -> Any:
    return expect(page.get_by_role("row", name=re.compile(rf"^{version} serving")))


@pytest.mark.slow
def test_the_page_lives_while_a_training_runs_and_everything_on_it_works(browser: Browser, stand: Stand) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visitor = Watched(context, stand.backend)
    page = visitor.page

    visitor.page.goto(visitor.base)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visitor.serious() == []
    visitor.sign_in("/")
    expect(page.get_by_text("No project yet")).to_be_visible()
    assert visitor.serious() == []

    # A project shows up by itself, its bar grows, and its first training starts.
    stand.annotate(range(1, 5))
    expect(page.get_by_text("4 of 10 annotations")).to_be_visible()
    page.get_by_role("link", name="wheel").click()
    expect(page.get_by_role("heading", name="wheel")).to_be_visible()
    stand.annotate(range(5, 11))
    expect(page.get_by_role("heading", name="Training now")).to_be_visible()
    expect(page.get_by_label("What it said last")).to_contain_text("20% of 10 examples")
    before = bar(page)
    stand.lead(0.7)
    expect(page.get_by_label("What it said last")).to_contain_text("70% of 10 examples")
    assert bar(page) > before
    assert visitor.serious() == []
    stand.lead(1)
    expect(page.locator("circle[data-version^=v1-]")).to_have_count(1)
    serving(page, "v1").to_be_visible()
    assert visitor.serious() == []

    # Train now, and cancel it.
    stand.lead(0.3)
    visitor.press("Train now")
    expect(page.get_by_text("The training starts in a moment.")).to_be_visible()
    expect(page.get_by_label("What it said last")).to_contain_text("30% of 10 examples")
    visitor.press("Cancel the training that runs")
    expect(page.locator("#runs .pill", has_text="cancelled")).to_be_visible()
    expect(page.locator("circle[data-version]")).to_have_count(1)

    # Train now, to its end.
    stand.lead(1)
    visitor.press("Train now")
    expect(page.locator("circle[data-version^=v2-]")).to_have_count(1)
    serving(page, "v2").to_be_visible()

    visitor.press("Roll back to v1")
    expect(page.get_by_text("Rolled back: v1-")).to_be_visible()
    serving(page, "v1").to_be_visible()
    visitor.press("Promote v2")
    serving(page, "v2").to_be_visible()
    expect(page.locator("#decisions")).to_contain_text("promoted by the status page")
    assert visitor.serious() == []

    visitor.press("Sign out")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visitor.complaints == []
    assert visitor.hosts == {f"127.0.0.1:{stand.backend.port}"}
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_nothing_is_cut_off_and_axe_finds_nothing(browser: Browser, stand: Stand, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    stand.annotate(range(1, 5))
    visitor = Watched(context, stand.backend)
    visitor.sign_in(HOME)
    expect(visitor.page.get_by_role("heading", name="wheel")).to_be_visible()
    assert visitor.wider_than_the_screen() <= 0
    assert visitor.serious() == []
    visitor.page.goto(visitor.base)
    expect(visitor.page.get_by_role("heading", name="Projects")).to_be_visible()
    assert visitor.wider_than_the_screen() <= 0
    assert visitor.serious() == []
    assert visitor.complaints == []
    context.close()


@pytest.mark.slow
def test_without_javascript_everything_can_be_read_and_ordered(browser: Browser, stand: Stand) -> None:
    context = browser.new_context(java_script_enabled=False)
    stand.annotate(range(1, 5))
    visitor = Watched(context, stand.backend)
    visitor.sign_in(HOME)
    expect(visitor.page.get_by_label("Progress to the next training")).to_be_visible()
    stand.lead(0.5)
    visitor.page.get_by_role("button", name="Train now").click()
    expect(visitor.page.get_by_text("The training starts in a moment.")).to_be_visible()
    stand.lead(1)
    context.close()


@pytest.mark.slow
def test_a_page_that_is_open_says_when_the_backend_goes_away_and_keeps_what_it_showed(
    browser: Browser, stand: Stand
) -> None:
    stand.annotate(range(1, 5))
    context = browser.new_context()
    page = Watched(context, stand.backend)
    page.sign_in(HOME)
    expect(page.page.get_by_role("heading", name="wheel")).to_be_visible()
    stand.backend.stop()
    expect(page.page.get_by_text("The backend does not answer.")).to_be_visible()
    expect(page.page.get_by_role("heading", name="wheel")).to_be_visible()
    context.close()
