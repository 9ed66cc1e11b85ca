"""What the page says when the server refuses, fails, breaks off, or wants a key."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from bridge_adapter.server.app import create_app
from bridge_adapter.settings import ClientKey, Keys
from tests.browser.actions import ask, facts, finished, go_to, open_settings, reload
from tests.browser.conftest import Watch, adapter_settings
from tests.browser.scripted_truss import ScriptedTruss, ServerThread, text

pytestmark = pytest.mark.browser

KEY = "a key for this test"


@pytest.fixture
def locked_site(truss: ScriptedTruss) -> Iterator[str]:
    client = ClientKey(name="tester", sha256=hashlib.sha256(KEY.encode()).hexdigest())
    server = ServerThread(create_app(adapter_settings(truss, keys=Keys(mode="list", clients=(client,)))))
    server.start()
    yield server.url
    server.stop()


def test_a_refused_field_is_named_and_one_click_away(page: Page, watch: Watch) -> None:
    watch.expect("status of 400")
    panel = open_settings(page)
    panel.get_by_label("Temperature").fill("9")
    answer = finished(ask(page, "too hot"))
    error = answer.get_by_role("alert")
    expect(error).to_contain_text("temperature")
    expect(error).to_contain_text("400")
    expect(error).to_contain_text("invalid_request_error")
    error.get_by_role("button", name="Field: temperature").click()
    field = panel.get_by_label("Temperature")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("1")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    error.get_by_role("button", name="Try again").click()
    expect(page.locator(".message.assistant .markdown")).to_have_text("too hot")


def test_a_schema_that_is_no_json_is_not_sent(page: Page, truss: ScriptedTruss) -> None:
    panel = open_settings(page)
    panel.get_by_label("Answer as").select_option("json_schema")
    panel.get_by_label("JSON schema").fill("{")
    before = len(truss.bodies)
    page.get_by_role("textbox", name="Message").fill("never sent")
    page.keyboard.press("Enter")
    error = page.get_by_role("alert")
    expect(error).to_contain_text("not valid JSON")
    error.get_by_role("button", name="Field: response_format").click()
    expect(panel.get_by_label("JSON schema")).to_be_focused()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("never sent")
    assert len(truss.bodies) == before


def test_a_full_server_says_when_to_try_again(page: Page, watch: Watch, truss: ScriptedTruss) -> None:
    watch.expect("status of 429")
    error: dict[str, str | None] = {"message": "The queue is full.", "type": "requests", "param": None, "code": None}
    truss.refuse("crowded", 429, error, {"Retry-After": "17"})
    answer = finished(ask(page, "crowded"))
    expect(answer.get_by_role("alert")).to_contain_text("Try again in 17 s.")


@pytest.mark.parametrize("fault", ["quiet end", "error event"])
def test_a_broken_stream_says_so_and_keeps_what_came(page: Page, truss: ScriptedTruss, fault: str) -> None:
    steps = [text("This came.")]
    if fault == "error event":
        steps.append({"event": "error", "status": 500, "type": "server_error", "message": "The model fell over."})
    truss.answer(fault, steps, finish=None)
    answer = finished(ask(page, fault))
    expect(answer.locator(".markdown")).to_have_text("This came.")
    expect(answer.get_by_role("alert")).to_be_visible()
    assert facts(answer)["finish"] == "broken off"
    reload(page)
    kept = page.locator(".message.assistant")
    expect(kept.locator(".markdown")).to_have_text("This came.")
    expect(kept.get_by_role("alert")).to_be_visible()


def test_a_stream_cut_on_the_way_says_so(page: Page, watch: Watch) -> None:
    watch.expect("ERR_")
    body = 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    answer = finished(ask(page, "cut"))
    expect(answer.locator(".markdown")).to_have_text("Half")
    expect(answer.get_by_role("alert")).to_contain_text("Broken off. The stream ended before the answer was complete.")


def test_a_server_that_is_gone_says_so(page: Page, watch: Watch) -> None:
    watch.expect("ERR_")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    answer = finished(ask(page, "hello?"))
    expect(answer.get_by_role("alert")).to_contain_text("The server could not be reached.")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(open_page: Any, locked_site: str) -> None:
    page, watch = open_page(locked_site)
    watch.expect("status of 401")
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key", exact=True).fill("a wrong key")
    dialog.get_by_role("button", name="Use key").click()
    expect(dialog.get_by_label("Key", exact=True)).to_have_value("")
    dialog.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")
    answer = finished(ask(page, "with a key"))
    expect(answer.locator(".markdown")).to_have_text("with a key")
    assert KEY in page.evaluate("JSON.stringify({...sessionStorage})")
    assert KEY not in page.evaluate("JSON.stringify({...localStorage})")
    other = page.context.new_page()
    go_to(other, locked_site)
    expect(other.get_by_role("dialog", name="API key")).to_be_visible()


def test_without_a_key_the_error_stands_and_can_be_tried_again(open_page: Any, locked_site: str) -> None:
    page, watch = open_page(locked_site)
    watch.expect("status of 401")
    page.get_by_role("dialog", name="API key").get_by_role("button", name="Cancel").click()
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
