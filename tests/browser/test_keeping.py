"""Conversations outlive a reload, and travel as files."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.actions import ask, finished, reload, stored
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

SHOWN = ".message .text, .message .markdown"


def exported(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    file = folder / "exported.json"
    download.value.save_as(file)
    return file


def test_a_reload_keeps_the_conversation(page: Page) -> None:
    finished(ask(page, "remember me"))
    finished(ask(page, "and me"))
    reload(page)
    expect(page.locator(SHOWN)).to_have_text(["remember me", "remember me", "and me", "and me"])
    expect(page.get_by_role("navigation").get_by_role("button", name="remember me", exact=True)).to_be_visible()


def test_a_reload_half_way_keeps_what_was_asked(page: Page, truss: ScriptedTruss) -> None:
    truss.answer("half", [text("Some."), truss.gate()])
    answer = ask(page, "half")
    expect(answer.locator(".markdown")).to_have_text("Some.")
    reload(page)
    expect(page.locator(".message.user .text")).to_have_text("half")
    expect(page.locator("[data-fact=finish] dd")).to_have_text("stopped by you")


def test_an_export_imported_elsewhere_is_the_same(page: Page, truss: ScriptedTruss, tmp_path: Path) -> None:
    truss.answer("likely too", [text("Yes", probability=0.5), text(".", probability=0.25)])
    page.get_by_role("button", name="Probabilities").click()
    finished(ask(page, "likely too"))
    page.get_by_role("button", name="Answer again").click()
    finished(page.locator(".message.assistant"))
    expect(page.locator(".branch")).to_have_text("2 / 2")
    before = stored(page)
    file = exported(page, "Export", tmp_path)
    assert json.loads(file.read_text())["conversations"] == before
    page.evaluate("indexedDB.deleteDatabase('truss-openai-bridge')")
    reload(page)
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_label("File to import").set_input_files(file)
    expect(page.locator(".message.assistant .markdown")).to_have_text("Yes.")
    assert [record for record in stored(page) if record["nodes"]] == before


def test_an_import_beside_its_original_is_a_second_one(page: Page, tmp_path: Path) -> None:
    finished(ask(page, "twice"))
    page.get_by_label("File to import").set_input_files(exported(page, "Export all", tmp_path))
    expect(page.get_by_role("navigation").get_by_role("button", name="twice", exact=True)).to_have_count(2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "The file is not JSON."),
        ("[]", "The file holds no conversations of this page."),
        (
            '{"format": "truss-openai-bridge/conversations", "version": 1, "conversations": [{"nodes": [{"id": "a", '
            '"parent": "b"}]}]}',
            "conversations[0].id is not a text.",
        ),
        (
            '{"format": "truss-openai-bridge/conversations", "version": 1, "conversations": [{"id": "x", "title": "x", '
            '"createdAt": 1, "updatedAt": 1, "nodes": [{"id": "a", "parent": "b", "role": "user", "content": ""}]}]}',
            "conversations[0].nodes[0].parent is not a message before it.",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(page: Page, tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    page.get_by_label("File to import").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text(says)
    assert stored(page) == []


def test_a_file_refused_before_the_models_are_known_stays_refused(page: Page, tmp_path: Path) -> None:
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_request("**/v1/models"):
        reload(page)
    file = tmp_path / "file.json"
    file.write_text("{")
    page.get_by_label("File to import").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("The file is not JSON.")
    with page.expect_response("**/v1/models"):
        held[0].continue_()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")
    finished(ask(page, "hello"))
    expect(page.get_by_role("alert")).to_contain_text("The file is not JSON.")


def test_a_page_that_does_not_listen_yet_takes_nothing(page: Page) -> None:
    page.context.add_init_script(
        """IDBFactory.prototype.open = new Proxy(IDBFactory.prototype.open, {
            apply(open, factory, given) {
                const request = Reflect.apply(open, factory, given), late = { result: null };
                const opened = new Promise((resolve) => (window.letOpen = resolve));
                request.onsuccess = async () => {
                    await opened;
                    late.result = request.result;
                    late.onsuccess();
                };
                return late;
            },
        });"""
    )
    page.reload()
    expect(page.locator("body")).to_have_attribute("inert", "")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement === document.body")
    page.evaluate("window.letOpen()")
    expect(page.locator("body")).not_to_have_attribute("inert", "")
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()


def test_conversations_can_be_renamed_and_deleted(page: Page) -> None:
    finished(ask(page, "old name"))
    page.get_by_role("button", name="Rename old name").click()
    page.get_by_role("textbox", name="Title").fill("new name")
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation").get_by_role("button", name="new name", exact=True)).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete new name").click()
    expect(page.locator(".message")).to_have_count(0)
    assert stored(page) == []


def test_what_is_deleted_while_it_grows_stays_deleted(page: Page, truss: ScriptedTruss) -> None:
    truss.left.clear()
    truss.answer("growing", [text("Some."), truss.gate()])
    expect(ask(page, "growing").locator(".markdown")).to_have_text("Some.")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete growing").click()
    expect(page.locator(".message")).to_have_count(0)
    assert truss.left.wait(60)
    finished(ask(page, "another"))
    assert [record["title"] for record in stored(page)] == ["another"]


def test_a_browser_that_keeps_nothing_is_said_to(open_page: Any, site: str) -> None:
    page, _ = open_page(site)
    page.context.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { value: { open() { throw Error('no'); } } })"
    )
    reload(page)
    expect(page.get_by_role("alert")).to_contain_text("This browser keeps no conversations: no")
    expect(finished(ask(page, "still here")).locator(".markdown")).to_have_text("still here")


def test_a_new_conversation_leaves_the_old_one_there(page: Page) -> None:
    finished(ask(page, "the old one"))
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("navigation").get_by_role("button", name="the old one", exact=True).click()
    expect(page.locator(SHOWN)).to_have_text(["the old one", "the old one"])
