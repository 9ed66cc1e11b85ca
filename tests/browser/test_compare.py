"""Two settings side by side on one question."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, finished, open_settings
from tests.browser.conftest import Watch
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser


def compare(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("combobox", name="Model B").select_option("another")


def test_two_answers_with_settings_of_their_own(page: Page, truss: ScriptedTruss) -> None:
    compare(page)
    panel = open_settings(page)
    panel.get_by_label("Temperature").fill("0")
    panel.get_by_role("tab", name="B").click()
    panel.get_by_label("Temperature").fill("1")
    before = len(truss.bodies)
    ask(page, "both")
    pair = page.locator(".pair .message.assistant")
    expect(pair).to_have_count(2)
    for answer in pair.all():
        finished(answer)
    expect(pair.locator(".markdown")).to_have_text(["both", "both"])
    expect(pair.get_by_role("heading", level=2)).to_have_text(["Ascripted", "Banother"])
    assert sorted(body["temperature"] for body in truss.bodies[before:]) == [0, 1]


def test_the_conversation_goes_on_from_the_chosen_one(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("which", [text("An answer.")])
    compare(page)
    ask(page, "which")
    second = finished(page.locator(".pair .message.assistant").nth(1))
    finished(page.locator(".pair .message.assistant").nth(0))
    second.get_by_role("button", name="Go on from this").click()
    expect(second.get_by_role("button", name="Go on from this")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Compare").click()
    finished(ask(page, "go on"))
    kept = page.evaluate("document.querySelectorAll('.message.assistant')[1].dataset.id")
    records = page.evaluate(
        "async () => (await (await (await import('/assets/library.js')).Library.open()).all())[0].nodes"
    )
    question = next(node for node in records if node.get("content") == "go on")
    assert question["parent"] == kept


def test_an_error_of_b_leads_to_the_settings_of_b(page: Page, watch: Watch) -> None:
    watch.expect("status of 400")
    compare(page)
    panel = open_settings(page)
    panel.get_by_role("tab", name="B").click()
    panel.get_by_label("Temperature").fill("9")
    panel.get_by_role("tab", name="A").click()
    ask(page, "only A")
    refused = finished(page.locator(".pair .message.assistant").nth(1))
    expect(refused.locator("[data-fact=finish] dd")).to_have_text("refused")
    refused.get_by_role("button", name="Field: temperature").click()
    expect(panel.get_by_role("tab", name="B")).to_have_attribute("aria-selected", "true")
    expect(panel.get_by_label("Temperature")).to_be_focused()
    expect(panel.get_by_label("Temperature")).to_have_value("9")


def test_stop_ends_both(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("endless pair", [text("Begun."), truss.gate()])
    compare(page)
    ask(page, "endless pair")
    pair = page.locator(".pair .message.assistant")
    expect(pair.locator(".markdown")).to_have_text(["Begun.", "Begun."])
    page.get_by_role("button", name="Stop").click()
    for answer in pair.all():
        finished(answer)
    expect(pair.locator("[data-fact=finish] dd")).to_have_text(["stopped by you"] * 2)
