"""The tool playground: define a tool, see the call, answer it by hand."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, facts, finished, open_settings
from tests.browser.scripted_truss import ScriptedTruss, text, tool_call

pytestmark = pytest.mark.browser


def test_a_call_is_shown_and_answered(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("Weather?", tool_call("get_weather", '{"city":', ' "Oslo"}'), finish="tool_calls")
    truss.answer("4 degrees", [text("It is cold in Oslo.")])
    panel = open_settings(page)
    panel.get_by_role("button", name="Add a tool").click()
    panel.get_by_label("Tool choice").select_option("get_weather")
    answer = finished(ask(page, "Weather?"))
    # A call that was forced by name ends with `stop`, as OpenAI's own answers do.
    assert facts(answer)["finish"] == "stop"
    call = answer.get_by_role("region", name="Call of get_weather")
    expect(call.locator("pre")).to_have_text('{\n  "city": "Oslo"\n}')
    sent = truss.bodies[-1]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["get_weather"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    answer.get_by_role("textbox", name="Result of get_weather").fill("4 degrees")
    answer.get_by_role("button", name="Send result").click()
    last = page.locator(".message.assistant").nth(1)
    expect(last.locator(".markdown")).to_have_text("It is cold in Oslo.")
    finished(last)
    calls = [
        {
            "id": "call_00000001",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
        }
    ]
    assert truss.bodies[-1]["messages"][1:] == [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_00000001", "content": "4 degrees"},
    ]
    expect(answer.get_by_role("textbox")).to_have_count(0)


def test_arguments_that_are_no_json_are_shown_as_they_are(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("Broken?", tool_call("get_weather", '{"city":'), finish="tool_calls")
    open_settings(page).get_by_role("button", name="Add a tool").click()
    answer = finished(ask(page, "Broken?"))
    expect(answer.get_by_role("region", name="Call of get_weather")).to_contain_text("arguments are not valid JSON")
    expect(answer.locator(".call pre")).to_have_text('{"city":')


def test_a_schema_is_asked_for(page: Page, truss: ScriptedTruss) -> None:
    panel = open_settings(page)
    panel.get_by_label("Answer as").select_option("json_schema")
    panel.get_by_label("JSON schema").fill('{"type": "object"}')
    finished(ask(page, "as JSON"))
    assert truss.bodies[-1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
    }
