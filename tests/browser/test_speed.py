"""Small to load, and smooth while a long answer streams."""

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.actions import ask, finished, open_settings
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

BUDGET = 200_000
TOKENS = 2000
LONG_TASK = 50.0  # milliseconds, as the W3C's Long Tasks API has it
PARAGRAPH = "A **word** and `another` in a paragraph that goes on for a while.\n\n- one\n- two\n\n```py\nx = 1\n```\n\n"


def transferred(page: Page, *, cached: bool) -> int:
    """Bytes on the wire of one load, headers included."""
    session = page.context.new_cdp_session(page)
    received: list[int] = []
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": not cached})
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    page.reload(wait_until="networkidle")
    session.detach()
    return int(sum(received))


def test_the_first_load_fits_its_budget_and_the_second_sends_no_file_again(page: Page) -> None:
    first = transferred(page, cached=False)
    assert 10_000 < first < BUDGET
    assert transferred(page, cached=True) < first / 2  # the headers of so many 304s


def test_every_module_is_asked_for_at_once(page: Page) -> None:
    named = page.evaluate(
        "[...document.querySelectorAll('link[rel=modulepreload], script')].map((e) => e.href || e.src)"
    )
    loaded = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert sorted(named) == sorted(name for name in set(loaded) if name.endswith(".js"))


@pytest.mark.parametrize("probabilities", [False, True], ids=["text", "probabilities"])
def test_a_long_answer_streams_without_long_tasks(
    browser: Browser, page: Page, truss: ScriptedTruss, probabilities: bool
) -> None:
    words = (PARAGRAPH * TOKENS).split(" ")[:TOKENS]
    truss.answer("long", [text(word + " ", probability=0.5 if probabilities else None) for word in words])
    if probabilities:
        page.get_by_role("button", name="Probabilities").click()
    finished(ask(page, "hello"))
    browser.start_tracing(page=page, categories=["toplevel"])
    answer = finished(ask(page, "long"))
    tasks = main_thread_tasks(json.loads(browser.stop_tracing()))
    expect(answer.locator(".markdown")).to_contain_text("paragraph")
    assert len(tasks) > 100
    assert [spent for spent in tasks if spent > LONG_TASK] == []


def main_thread_tasks(trace: dict[str, Any]) -> list[float]:
    """Milliseconds of CPU of each task of the page's own thread: what other programs take meanwhile does not count."""
    events = trace["traceEvents"]
    threads = {(each["pid"], each["tid"]) for each in events if each.get("args", {}).get("name") == "CrRendererMain"}
    return [
        each["tdur"] / 1000
        for each in events
        if each["name"] == "ThreadControllerImpl::RunTask" and (each["pid"], each["tid"]) in threads and "tdur" in each
    ]


def test_typing_into_the_settings_does_not_redraw_the_thread(page: Page) -> None:
    finished(ask(page, "stay"))
    page.evaluate("window.answer = document.querySelector('.message.assistant')")
    open_settings(page).get_by_label("System text").fill("new")
    finished(ask(page, "again"))
    assert page.evaluate("window.answer.isConnected") is True
