"""Text is text: nothing a model or a user writes runs, loads, or leaves the origin."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import ask, behind, finished, open_settings, reload
from tests.browser.conftest import Watch
from tests.browser.scripted_truss import ScriptedTruss, text, tool_call

pytestmark = pytest.mark.browser

ATTACKS = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg onload='window.ran = 1'></svg>",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "<style>@import 'http://elsewhere.invalid/a.css';</style>",
    "<form action='http://elsewhere.invalid'><button>x</button></form>",
    "![x](http://elsewhere.invalid/pixel.png)",
    '![x](x"onerror="window.ran=1)',
    "[click](javascript:window.ran=1)",
    "[click](JaVaScRiPt&colon;window.ran=1)",
    "[click](data:text/html,<script>window.ran=1</script>)",
    '<http://a.invalid/"onmouseover="window.ran=1>',
    "```html\n<img src=x onerror='window.ran = 1'>\n```",
    "```\"><img src=x onerror='window.ran = 1'>\nx\n```",
    "[x]: http://a.invalid \"'><img src=x onerror='window.ran=1'>\"\n\n[x]",
    "|<img src=x onerror='window.ran=1'>|\n|-|\n|<b onclick='window.ran=1'>x</b>|",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--><img src=x onerror='window.ran=1'>\">",
    "<a href='http://elsewhere.invalid' ping='http://elsewhere.invalid'>x</a>",
    "<div style='background: url(http://elsewhere.invalid)'>x</div>",
    "<input autofocus onfocus='window.ran=1'>",
]
DANGEROUS = "script, img, svg, iframe, object, embed, style, form, input, link, meta, base, video, audio, math"

ATTRIBUTES = """(part) => [...document.querySelectorAll(part)].flatMap((each) => each.getAttributeNames())
    .filter((name) => /^on|^style$|^src|^ping$/.test(name))"""


def nothing_ran(page: Page, part: str) -> None:
    for link in page.locator(f"{part} a").all():
        link.hover()
        assert (link.get_attribute("href") or "").startswith(
            ("http://", "https://", "mailto:")
        ) or not link.get_attribute("href")
    assert page.evaluate("window.ran") is None
    assert page.locator(part).locator(DANGEROUS).and_(page.locator(":not(.icon)")).count() == 0
    assert page.evaluate(ATTRIBUTES, f"{part} *") == []


def test_a_models_text_does_nothing(page: Page, truss: ScriptedTruss) -> None:
    for attack in ATTACKS:
        truss.answer("attack", [text(piece) for piece in [attack[:7], attack[7:20], attack[20:]] if piece])
        finished(ask(page, "attack"))
    nothing_ran(page, ".markdown")


def test_a_users_text_is_shown_as_written(page: Page) -> None:
    for attack in ATTACKS[:4]:
        answer = finished(ask(page, attack))
        expect(page.locator(".message.user .text").last).to_have_text(attack)
        nothing_ran(page, ".message.user .text")
        assert attack in behind(page, answer, "Python").replace('\\"', '"')
    nothing_ran(page, "#conversations")


def test_a_tool_calls_text_does_nothing(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("call attack", tool_call(ATTACKS[1], f'{{"x": "{ATTACKS[1]}"}}'), finish="tool_calls")
    open_settings(page).get_by_role("button", name="Add a tool").click()
    answer = finished(ask(page, "call attack"))
    expect(answer.locator(".call code").first).to_have_text(ATTACKS[1])
    nothing_ran(page, ".calls")


def test_tokens_do_nothing(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("token attack", [text(attack, probability=0.5) for attack in ATTACKS[:3]])
    page.get_by_role("button", name="Probabilities").click()
    answer = finished(ask(page, "token attack"))
    answer.get_by_role("button", name="Tokens").click()
    answer.get_by_role("option").nth(1).hover()
    nothing_ran(page, ".tokens")


def test_the_policy_stops_what_the_page_would_not(page: Page, watch: Watch) -> None:
    watch.expect("Content Security Policy|requires 'Trusted|TrustedHTML|Refused|violates")
    reached = page.evaluate(
        """async () => {
            const outcomes = [];
            try { await fetch("http://elsewhere.invalid/"); outcomes.push("fetched"); } catch { }
            try { document.body.innerHTML = "<b>x</b>"; outcomes.push("html"); } catch { }
            await new Promise((resolve) => setTimeout(() => {
                try { eval("window.ran = 1"); outcomes.push("eval"); } catch { }
                resolve();
            }));
            const script = document.createElement("script");
            script.append("window.ran = 1");
            try { document.body.append(script); } catch { }
            return [outcomes, window.ran ?? null];
        }"""
    )
    assert reached == [[], None]
    assert page.locator("#composer").count() == 1
    watch.requests[:] = [url for url in watch.requests if url != "http://elsewhere.invalid/"]


def test_a_page_framed_by_another_stays_empty(page: Page, watch: Watch, site: str) -> None:
    watch.expect("frame-ancestors|X-Frame|Refused|Framing|violates")
    page.route(
        "**/frame.html", lambda route: route.fulfill(body=f"<iframe src='{site}/'></iframe>", content_type="text/html")
    )
    page.goto(f"{site}/frame.html")
    assert page.frame_locator("iframe").locator("#composer").count() == 0


def test_no_key_reaches_the_export(open_page: Any, site: str) -> None:
    page, _ = open_page(site)
    page.evaluate("sessionStorage.setItem('truss-openai-bridge/key', 'a secret key')")
    reload(page)
    answer = finished(ask(page, "hello"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Export", exact=True).click()
    assert "a secret key" not in download.value.path().read_text()
    for tab in ("Request", "Events", "Python", "Node", "curl"):
        assert "a secret key" not in behind(page, answer, tab)
