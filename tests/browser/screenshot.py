"""Takes docs/page.png: a short conversation with the demo model over the real stack. Run it on an idle machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from bridge_adapter.server.app import create_app
from bridge_adapter.settings import AdapterSettings, ModelEntry, Observe, Server
from scripts.assemble import assemble
from scripts.process import free_port
from scripts.serve import REPOSITORY
from scripts.stack import start_truss, truss_url, wait_truss
from tests.browser.actions import ask, finished, go_to, open_settings
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.scripted_truss import ServerThread

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURE = REPOSITORY / "docs/page.png"
NAME = "smollm2-135m-instruct"


def main() -> None:
    port = free_port()
    with TemporaryDirectory() as folder:
        image = assemble(REPOSITORY, Path(folder) / "image")
        with start_truss(image, port, Path(folder), environment={"TRUSS_MODEL_ID": "demo"}) as process:
            wait_truss(process, port, 300)
            models = {NAME: ModelEntry(url=truss_url(port))}
            settings = AdapterSettings(models=models, server=Server(web=True), observe=Observe(access_log="off"))
            site = ServerThread(create_app(settings))
            site.start()
            try:
                photograph(site.url)
            finally:
                site.stop()


def photograph(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 1060})
        page.set_default_timeout(120_000)
        go_to(page, url)
        converse(page)
        page.screenshot(path=PICTURE)
        browser.close()


def converse(page: "Page") -> None:
    panel = open_settings(page)
    panel.get_by_label("Temperature").fill("0")
    panel.get_by_label("Max tokens").fill("90")
    finished(ask(page, "Write a Python function that adds two numbers. Only the code."))
    panel.get_by_label("Max tokens").fill("48")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Probabilities").click()
    answer = finished(ask(page, "Why is the sky blue? One sentence."))
    answer.get_by_role("button", name="Tokens").click()
    answer.get_by_role("option").nth(9).click()
    scroller = page.get_by_role("region", name="Messages")
    scroller.evaluate("(region) => region.scrollTo(0, region.scrollHeight)")


if __name__ == "__main__":
    main()
