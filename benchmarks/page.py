"""How smooth the page stays while a long answer streams: CPU of each task of its own thread, in headless Chromium.

`python -m benchmarks.page [--tokens 2000] [--rounds 3]`; `make test-browser` has installed Chromium and its driver.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.figures import medians, quantile
from benchmarks.report import Report, say, table
from bridge_adapter.server.app import create_app
from tests.browser.actions import ask, finished, go_to
from tests.browser.conftest import CHROMIUM, FLAGS, adapter_settings
from tests.browser.scripted_truss import ScriptedTruss, ServerThread, text

LONG_TASK = 50.0  # milliseconds, as the W3C's Long Tasks API has it
PARAGRAPH = "A **word** and `another` in a paragraph that goes on for a while.\n\n- one\n- two\n\n```py\nx = 1\n```\n\n"
FIGURES = ("tasks", "p50_ms", "p99_ms", "longest_ms", "long_tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    words = (PARAGRAPH * options.tokens).split(" ")[: options.tokens]
    done: dict[str, list[dict[str, float]]] = {"text": [], "probabilities": []}
    with site(words) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for number in range(options.rounds):
            for name, rounds in done.items():
                say(f"round {number + 1} of {options.rounds}: {name}")
                rounds.append(streamed(browser, url, name))
        browser.close()
    figures = {name: medians(rounds) for name, rounds in done.items()}
    rows = [[name, *(found[key] for key in FIGURES)] for name, found in figures.items()]
    table(f"An answer of {options.tokens} tokens, all at once", ("what is shown", *FIGURES), rows)
    Report("page").add("streams", {"tokens": options.tokens, "figures": figures})


@contextmanager
def site(words: list[str]) -> Iterator[str]:
    """A real adapter with its page, before a Truss that says `words` at once; with probabilities, too."""
    truss = ScriptedTruss()
    truss.answer("text", [text(word + " ") for word in words])
    truss.answer("probabilities", [text(word + " ", probability=0.5) for word in words])
    adapter = ServerThread(create_app(adapter_settings(truss)))
    truss.server.start()
    adapter.start()
    try:
        yield adapter.url
    finally:
        adapter.stop()
        truss.server.stop()


def streamed(browser: Browser, url: str, name: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page: Page = context.new_page()
    go_to(page, url + "/")
    if name == "probabilities":
        page.get_by_role("button", name="Probabilities").click()
    finished(ask(page, "hello"))
    browser.start_tracing(page=page, categories=["toplevel"])
    finished(ask(page, name))
    tasks = main_thread_tasks(json.loads(browser.stop_tracing()))
    context.close()
    return {
        "tasks": len(tasks),
        "p50_ms": quantile(tasks, 0.5),
        "p99_ms": quantile(tasks, 0.99),
        "longest_ms": max(tasks, default=0.0),
        "long_tasks": sum(spent > LONG_TASK for spent in tasks),
    }


def main_thread_tasks(trace: dict[str, Any]) -> list[float]:
    """Milliseconds of CPU of each task of pages' own threads: what other programs take meanwhile does not count."""
    events = trace["traceEvents"]
    threads = {(each["pid"], each["tid"]) for each in events if each.get("args", {}).get("name") == "CrRendererMain"}
    return [
        each["tdur"] / 1000
        for each in events
        if each["name"] == "ThreadControllerImpl::RunTask" and (each["pid"], each["tid"]) in threads and "tdur" in each
    ]


if __name__ == "__main__":
    main()
