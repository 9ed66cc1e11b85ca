"""Small to load, and smooth while a long answer streams."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, finished, open_settings
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

BUDGET = 200_000
TOKENS = 2000
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


# What changed under the node since: elements and texts that were added or removed, with all that they hold.
COUNT_CHANGES = """(answer) => {
    const size = (node) => 1 + [...node.childNodes].reduce((sum, child) => sum + size(child), 0);
    window.changed = 0;
    new MutationObserver((changes) => {
        for (const { addedNodes, removedNodes } of changes)
            for (const node of [...addedNodes, ...removedNodes]) window.changed += size(node);
    }).observe(answer, { childList: true, subtree: true });
}"""


@pytest.mark.parametrize("probabilities", [False, True], ids=["text", "probabilities"])
def test_one_more_word_redraws_the_end_of_a_long_answer_only(
    page: Page, truss: ScriptedTruss, probabilities: bool
) -> None:
    words = (PARAGRAPH * TOKENS).split(" ")[:TOKENS]
    gate, probability = truss.gate(), 0.5 if probabilities else None
    steps = [text(word + " ", probability=probability) for word in words]
    truss.answer("long", [*steps, text("begun", probability=probability), gate, text("more", probability=probability)])
    if probabilities:
        page.get_by_role("button", name="Probabilities").click()
    answer = ask(page, "long")
    expect(answer.locator(".markdown")).to_contain_text("begun")
    drawn = answer.evaluate("(answer) => answer.querySelectorAll('.markdown *').length")
    answer.evaluate(COUNT_CHANGES)
    gate.open()
    finished(answer)
    expect(answer.locator(".markdown")).to_contain_text("begunmore")
    assert drawn > 1000
    assert 0 < page.evaluate("window.changed") < drawn / 5


def test_typing_into_the_settings_does_not_redraw_the_thread(page: Page) -> None:
    finished(ask(page, "stay"))
    page.evaluate("window.answer = document.querySelector('.message.assistant')")
    open_settings(page).get_by_label("System text").fill("new")
    finished(ask(page, "again"))
    assert page.evaluate("window.answer.isConnected") is True
