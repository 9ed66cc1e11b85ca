"""The token view shows the API's own numbers."""

import json

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import ask, behind, finished
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

PROBABILITIES = {"The": 0.97, " cat": 0.4, " sat": 0.05, "\n": 0.7, "ß": 0.999}


def with_probabilities(page: Page, truss: ScriptedTruss) -> Locator:
    truss.answer("likely", [text(piece, probability=chance) for piece, chance in PROBABILITIES.items()])
    page.get_by_role("button", name="Probabilities").click()
    return finished(ask(page, "likely"))


def test_every_token_and_alternative_has_the_apis_value(page: Page, truss: ScriptedTruss) -> None:
    answer = with_probabilities(page, truss)
    assert truss.bodies[-1]["logprobs"] is True
    assert truss.bodies[-1]["top_logprobs"] == 5
    events = [line.removeprefix("data: ") for line in behind(page, answer, "Events").split("\n\n")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    sent = [
        entry
        for chunk in chunks
        for choice in chunk["choices"]
        for entry in (choice.get("logprobs") or {}).get("content") or []
    ]
    assert [entry["token"] for entry in sent] == list(PROBABILITIES)
    answer.get_by_role("button", name="Tokens").click()
    tokens = answer.get_by_role("option")
    expect(tokens).to_have_count(len(sent))
    for at, entry in enumerate(sent):
        tokens.nth(at).hover()
        expect(answer.locator(".token-details caption")).to_have_text(f"Token {at + 1}")
        rows = answer.locator(".token-details tbody tr").all()
        shown = [(row.get_attribute("data-token"), float(row.get_attribute("data-logprob") or "nan")) for row in rows]
        others = [each for each in entry["top_logprobs"] if each["token"] != entry["token"]]
        assert shown == [(each["token"], each["logprob"]) for each in (entry, *others)]
        texts = [row.locator("td").nth(1).inner_text() for row in rows]
        assert texts == [f"{each['logprob']:.4f}" for each in (entry, *others)]


def test_the_keyboard_reaches_every_token(page: Page, truss: ScriptedTruss) -> None:
    answer = with_probabilities(page, truss)
    answer.get_by_role("button", name="Tokens").click()
    answer.get_by_role("listbox").focus()
    caption = answer.locator(".token-details caption")
    for key, token in {"ArrowRight": 2, "End": 5, "ArrowLeft": 4, "Home": 1}.items():
        page.keyboard.press(key)
        expect(caption).to_have_text(f"Token {token}")
    expect(answer.get_by_role("option", selected=True)).to_have_attribute("aria-label", "The, 97.0 %")


def test_tints_follow_probability(page: Page, truss: ScriptedTruss) -> None:
    answer = with_probabilities(page, truss)
    answer.get_by_role("button", name="Tokens").click()
    tints = [token.get_attribute("class") for token in answer.get_by_role("option").all()]
    assert tints == [f"token tint-{min(9, int(chance * 10))}" for chance in PROBABILITIES.values()]
