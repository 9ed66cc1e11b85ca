"""Small to load, and smooth while a long answer streams."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, finished, open_settings
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

BUDGET = 200_000
TOKENS = 2000
PARAGRAPH = "A **word** and `another` in a paragraph that goes on for a while.\n\n- one\n- two\n\n```py\nx = 1\n```\n\n"


def transferred(page: Page) -> int:
    session = page.context.new_cdp_session(page)
    received: list[int] = []
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    page.reload(wait_until="networkidle")
    return int(sum(received))


def test_the_first_paint_fits_its_budget(open_page: Any, site: str) -> None:
    page, _ = open_page(site)
    page.context.clear_cookies()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    size = transferred(page)
    assert 10_000 < size < BUDGET


def test_unchanged_files_are_not_sent_again(open_page: Any, site: str) -> None:
    page, _ = open_page(site)
    page.wait_for_load_state("networkidle")
    assert transferred(page) < 30_000


@pytest.mark.parametrize("probabilities", [False, True], ids=["text", "probabilities"])
def test_a_long_answer_streams_without_long_tasks(page: Page, truss: ScriptedTruss, probabilities: bool) -> None:
    words = (PARAGRAPH * TOKENS).split(" ")[:TOKENS]
    truss.answer("long", [text(word + " ", probability=0.5 if probabilities else None) for word in words])
    if probabilities:
        page.get_by_role("button", name="Probabilities").click()
    finished(ask(page, "hello"))
    page.evaluate(
        """() => {
            window.longTasks = [];
            const note = (list) => window.longTasks.push(...list.getEntries().map(({ duration }) => duration));
            new PerformanceObserver(note).observe({ type: "longtask" });
        }"""
    )
    answer = finished(ask(page, "long"))
    expect(answer.locator(".markdown")).to_contain_text("paragraph")
    assert page.evaluate("window.longTasks") == []


def test_typing_into_the_settings_does_not_redraw_the_thread(page: Page) -> None:
    finished(ask(page, "stay"))
    page.evaluate("window.answer = document.querySelector('.message.assistant')")
    open_settings(page).get_by_label("System text").fill("new")
    finished(ask(page, "again"))
    assert page.evaluate("window.answer.isConnected") is True
