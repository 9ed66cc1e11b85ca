"""Asking, streaming, stopping, and the branches of a conversation."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.actions import ask, behind, facts, finished, open_settings, reload
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser


def test_an_answer_comes_with_its_figures(page: Page, truss: ScriptedTruss) -> None:
    gate = truss.gate()
    truss.answer("count", [text("one"), gate, text(" two"), text(" three")])
    answer = ask(page, "count")
    expect(answer.locator(".markdown")).to_have_text("one")
    gate.open()
    finished(answer)
    expect(answer.locator(".markdown")).to_have_text("one two three")
    expect(answer.get_by_role("heading", level=2)).to_have_text("scripted")
    shown = facts(answer)
    assert shown["prompt"] == "27 tok, 16 cached"
    assert shown["answer"] == "12 tok"
    assert shown["finish"] == "stop"
    assert shown["ttft"].endswith(("ms", "s"))
    assert shown["speed"].endswith("tok/s")


def test_the_request_id_shown_is_the_responses(page: Page) -> None:
    with page.expect_response("**/v1/chat/completions") as response:
        answer = finished(ask(page, "one two three"))
    assert facts(answer)["request"] == response.value.headers["x-request-id"]


def test_text_is_shown_as_it_streams(page: Page, truss: ScriptedTruss) -> None:
    gate = truss.gate()
    truss.answer("stream", [text("First part."), gate, text(" Second part.")])
    answer = ask(page, "stream")
    expect(answer.locator(".markdown")).to_have_text("First part.")
    expect(answer).to_have_attribute("aria-busy", "true")
    gate.open()
    finished(answer)
    expect(answer.locator(".markdown")).to_have_text("First part. Second part.")


def test_who_sends_before_the_models_are_known_is_answered(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("early", [text("Here.")])
    expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")
    page.evaluate("localStorage.clear()")
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_request("**/v1/models"):
        reload(page)
    field = page.get_by_role("textbox", name="Message")
    field.fill("early")
    page.keyboard.press("Enter")
    expect(field).to_have_value("early")
    held[0].continue_()
    answer = finished(page.locator(".message.assistant"))
    expect(answer.locator(".markdown")).to_have_text("Here.")
    expect(field).to_have_value("")


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop_closes_the_request_and_keeps_what_came(page: Page, truss: ScriptedTruss, way: str) -> None:
    truss.left.clear()
    truss.answer("endless", [text("Only this."), truss.gate()])
    answer = ask(page, "endless")
    expect(answer.locator(".markdown")).to_have_text("Only this.")
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    finished(answer)
    assert truss.left.wait(60)
    assert facts(answer)["finish"] == "stopped by you"
    expect(answer.locator(".markdown")).to_have_text("Only this.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_markdown_becomes_elements_and_code_gets_colours(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("markdown", [text("## Title\n\n- **bold**\n\n```py\nx = 'one'\n```\n\n|a|b|\n|-|-|\n|1|2|\n")])
    answer = finished(ask(page, "markdown"))
    expect(answer.get_by_role("heading", name="Title")).to_be_visible()
    expect(answer.locator("li strong")).to_have_text("bold")
    expect(answer.locator("figure.code .hljs-string")).to_have_text("'one'")
    expect(answer.get_by_role("cell", name="2")).to_be_visible()


def test_the_settings_make_the_request(page: Page, truss: ScriptedTruss) -> None:
    panel = open_settings(page)
    for label, value in {
        "System text": "Be brief.",
        "Temperature": "0.5",
        "Top p": "0.9",
        "Max tokens": "64",
        "Seed": "7",
        "Presence penalty": "0.25",
        "Frequency penalty": "-1",
        "Stop, one a line": "END\n\\n\\n",
    }.items():
        panel.get_by_label(label).fill(value)
    page.get_by_role("combobox", name="Model").select_option("another")
    with page.expect_request("**/v1/chat/completions") as request:
        answer = finished(ask(page, "hello"))
    assert request.value.post_data_json == {
        "model": "another",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 7,
        "presence_penalty": 0.25,
        "frequency_penalty": -1,
        "stop": ["END", "\n\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    expect(answer.get_by_role("heading", level=2)).to_have_text("another")


def test_the_whole_conversation_is_sent(page: Page, truss: ScriptedTruss) -> None:
    finished(ask(page, "first"))
    finished(ask(page, "second"))
    assert truss.bodies[-1]["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "second"},
    ]


def test_an_edited_question_is_a_branch_of_its_own(page: Page, truss: ScriptedTruss) -> None:
    finished(ask(page, "first try"))
    page.get_by_role("textbox", name="Message").press("ArrowUp")
    page.get_by_role("textbox", name="Edit message").fill("second try")
    page.keyboard.press("Enter")
    answer = page.locator(".message.assistant")
    expect(answer.locator(".markdown")).to_have_text("second try")
    finished(answer)
    assert truss.bodies[-1]["messages"] == [{"role": "user", "content": "second try"}]
    question = page.locator(".message.user")
    expect(question.locator(".branch")).to_have_text("2 / 2")
    question.get_by_role("button", name="Previous branch").click()
    expect(page.locator(".message .text, .message .markdown")).to_have_text(["first try", "first try"])


def test_another_answer_leaves_the_first_one_there(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("dice", [text("One.")])
    finished(ask(page, "dice"))
    truss.answer("dice", [text("Two.")])
    page.get_by_role("button", name="Answer again").click()
    answer = page.locator(".message.assistant")
    expect(answer.locator(".markdown")).to_have_text("Two.")
    finished(answer)
    answer.get_by_role("button", name="Previous branch").click()
    expect(answer.locator(".markdown")).to_have_text("One.")
    expect(answer.locator(".branch")).to_have_text("1 / 2")


def test_the_raw_events_are_the_ones_that_came(page: Page) -> None:
    sent: list[str] = []

    def overhear(route: Route) -> None:
        came = route.fetch()
        sent.extend(event for event in came.text().split("\n\n") if event.startswith("data:"))
        route.fulfill(response=came)

    page.route("**/v1/chat/completions", overhear)
    answer = finished(ask(page, "one two"))
    assert behind(page, answer, "Events").split("\n\n") == sent
    assert sent[-1] == "data: [DONE]"


def test_copy_gives_the_answers_source(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("source", [text("**bold** and `code`")])
    answer = finished(ask(page, "source"))
    answer.get_by_role("button", name="Copy answer").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "**bold** and `code`"
