"""What a user does on the page, by the names a user sees."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def go_to(page: "Page", url: str) -> None:
    """Goes to the page, and waits until it can be used."""
    page.goto(url)
    _usable(page)


def reload(page: "Page") -> None:
    page.reload()
    _usable(page)


def _usable(page: "Page") -> None:
    page.locator("body:not([inert])").wait_for(state="attached")


def ask(page: "Page", text: str) -> "Locator":
    """Sends a message and returns the newest answer, which may still be growing."""
    before = page.locator(".message.assistant").count()
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")
    answer = page.locator(".message.assistant").nth(before)
    answer.wait_for()
    return answer


def finished(answer: "Locator") -> "Locator":
    """The same answer once it has ended."""
    answer.and_(answer.page.locator("[aria-busy=false]")).wait_for()
    return answer


def facts(answer: "Locator") -> dict[str, str]:
    """The figures beside an answer."""
    items = answer.locator("[data-fact]").all()
    return {str(item.get_attribute("data-fact")): item.locator("dd").inner_text() for item in items}


def open_settings(page: "Page") -> "Locator":
    page.get_by_role("button", name="Settings").click()
    return page.get_by_role("complementary", name="Settings")


def behind(page: "Page", answer: "Locator", tab: str) -> str:
    """One tab of what is behind an answer, as text."""
    answer.get_by_role("button", name="Request, events and code").click()
    page.get_by_role("tab", name=tab, exact=True).click()
    shown: str = page.get_by_role("dialog").locator("pre").inner_text()
    page.get_by_role("button", name="Close").click()
    return shown


def stored(page: "Page") -> Any:
    """The conversations as the browser keeps them."""
    return page.evaluate(
        """async () => {
            const { Library } = await import("/assets/library.js");
            return (await Library.open()).all();
        }"""
    )
