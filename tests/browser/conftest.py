"""Chromium on the page of a real adapter, with a scripted Truss behind it; every page is watched for faults."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from bridge_adapter.server.app import create_app
from bridge_adapter.settings import AdapterSettings, ModelEntry, Observe, Server
from tests.browser.actions import go_to
from tests.browser.scripted_truss import ScriptedTruss, ServerThread

# Without the extra `browser` the modules of this folder cannot be imported, and without the marker none is run.
if find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 60_000  # milliseconds, against hanging only: the machine may be busy with other things
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Watch:
    """What a page did beside what the test looks at."""

    origin: str
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def expect(self, pattern: str) -> None:
        """A console error that belongs to the test: the browser logs every 4xx as one."""
        self.expected.append(pattern)

    def console(self, message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def request(self, request: "Request") -> None:
        self.requests.append(request.url)

    def check(self) -> None:
        unexpected = [each for each in self.faults if not any(re.search(pattern, each) for pattern in self.expected)]
        foreign = [url for url in self.requests if not url.startswith((self.origin + "/", f"blob:{self.origin}/"))]
        assert (unexpected, foreign) == ([], [])


# Package scope: Playwright's loop lives in this thread while it runs, and tests of other folders need their own.
@pytest.fixture(scope="package")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def truss() -> Iterator[ScriptedTruss]:
    truss = ScriptedTruss()
    truss.server.start()
    yield truss
    truss.server.stop()


def adapter_settings(truss: ScriptedTruss, **parts: Any) -> AdapterSettings:
    url = f"{truss.server.url}/predict"
    models = {"scripted": ModelEntry(url=url, dialect="predict"), "another": ModelEntry(url=url, dialect="predict")}
    return AdapterSettings(models=models, server=Server(web=True), observe=Observe(access_log="off"), **parts)


@pytest.fixture(scope="package")
def site(truss: ScriptedTruss) -> Iterator[str]:
    server = ServerThread(create_app(adapter_settings(truss)))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Any]":
    """Opens a page in a profile of its own; when the test is over, no page may have failed or left its origin."""
    opened: list[tuple[Page, Watch]] = []

    def open_page(url: str, **options: Any) -> "tuple[Page, Watch]":
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
        context.set_default_timeout(PATIENCE)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page, watch = context.new_page(), Watch(url)
        page.on("console", watch.console)
        page.on("pageerror", lambda error: watch.faults.append(str(error)))
        page.on("request", watch.request)
        opened.append((page, watch))
        go_to(page, url + "/")
        return page, watch

    yield open_page
    for page, watch in opened:
        page.context.close()
        watch.check()


@pytest.fixture
def watched(open_page: Any, site: str) -> "tuple[Page, Watch]":
    opened: tuple[Page, Watch] = open_page(site)
    return opened


@pytest.fixture
def page(watched: "tuple[Page, Watch]") -> "Page":
    return watched[0]


@pytest.fixture
def watch(watched: "tuple[Page, Watch]") -> Watch:
    return watched[1]
