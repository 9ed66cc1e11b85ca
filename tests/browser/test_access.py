"""For everyone: axe-core finds nothing serious, the keyboard reaches everything, a phone shows it all."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, finished, open_settings, reload
from tests.browser.conftest import Watch
from tests.browser.scripted_truss import ScriptedTruss, text, tool_call

pytestmark = pytest.mark.browser

AXE = (Path(__file__).parent / "node_modules/axe-core/axe.min.js").read_text()
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
RICH = (
    "## Title\n\nText with `code` and [a link](https://example.com).\n\n```python\nx = 1  # one\n```\n\n|a|\n|-|\n|b|\n"
)


def faults(page: Page) -> list[str]:
    """Serious and critical violations, each with the elements it was found at."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_serious_fault(
    open_page: Any, site: str, truss: ScriptedTruss, viewport: dict[str, int], scheme: str
) -> None:
    chances = [step / 20 for step in range(1, 20)]
    truss.answer("rich", [text(RICH, probability=0.5), *(text(f"{chance} ", probability=chance) for chance in chances)])
    truss.answer("calls", tool_call("get_weather", "{}"), finish="tool_calls")
    error: dict[str, str | None] = {"message": "No.", "type": "server_error", "param": "tools", "code": "no"}
    truss.refuse("fails", 500, error, {"x-should-retry": "false"})
    page, watch = open_page(site, viewport=viewport, color_scheme=scheme)
    watch.expect("status of")
    assert faults(page) == []
    page.get_by_role("button", name="Probabilities").click()
    answer = finished(ask(page, "rich"))
    assert faults(page) == []
    answer.get_by_role("button", name="Tokens").click()
    answer.get_by_role("option").first.click()
    assert faults(page) == []
    panel = open_settings(page)
    panel.get_by_role("button", name="Add a tool").click()
    panel.get_by_label("Answer as").select_option("json_schema")
    assert faults(page) == []
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Compare").click()
    ask(page, "calls")
    for each in page.locator(".pair .message.assistant").all():
        finished(each)
    assert faults(page) == []
    page.get_by_role("button", name="Compare").click()
    finished(ask(page, "fails"))
    assert faults(page) == []
    answer.get_by_role("button", name="Request, events and code").click()
    assert faults(page) == []


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    answer = finished(page.locator(".message.assistant"))
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    copy = answer.get_by_role("button", name="Copy answer")
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        if copy.evaluate("(button) => button === document.activeElement"):
            break
    expect(copy).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    tab = page.get_by_role("tab", name="Request")
    expect(page.get_by_role("dialog")).to_be_visible()
    tab.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_screen_readers_hear_when_an_answer_begins_and_ends(page: Page, truss: ScriptedTruss) -> None:
    gate = truss.gate()
    truss.answer("slow", [text("Well."), gate])
    answer = ask(page, "slow")
    expect(page.get_by_role("status")).to_have_text("The model is answering.")
    gate.open()
    finished(answer)
    expect(page.get_by_role("status")).to_have_text("The answer has ended.")


def test_a_phone_needs_no_sideways_scrolling(open_page: Any, site: str, truss: ScriptedTruss) -> None:
    truss.answer(
        "wide", [text("```\n" + "x" * 300 + "\n```\n\n" + "y" * 300 + "\n\n|" + "cell|" * 40 + "\n|" + "-|" * 40)]
    )
    page, _ = open_page(site, viewport=PHONE)
    finished(ask(page, "wide"))
    for button in ("Conversations", "Settings"):
        page.get_by_role("button", name=button).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.keyboard.press("Escape")
    assert page.evaluate("document.querySelector('#scroller').scrollWidth") <= PHONE["width"]


def test_the_colours_can_be_chosen(page: Page, watch: Watch) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.get_by_role("button", name="Colours: system").click()
    light = page.evaluate(ground)
    page.get_by_role("button", name="Colours: light").click()
    dark = page.evaluate(ground)
    assert light != dark
    reload(page)
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    assert page.evaluate(ground) == dark
