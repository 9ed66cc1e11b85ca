"""The page over the real stack: the adapter, the Truss server and the demo model, which has one row only."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest
from openai import OpenAI
from playwright.sync_api import Locator, Page, expect

from bridge_adapter.server.app import create_app
from bridge_adapter.settings import AdapterSettings, ClientKey, Keys, ModelEntry, Observe, Server
from scripts.assemble import assemble
from scripts.process import free_port
from scripts.serve import REPOSITORY
from scripts.stack import start_truss, truss_url, wait_truss
from tests.browser.actions import ask, facts, finished, open_settings, reload, stored
from tests.browser.conftest import Watch
from tests.browser.scripted_truss import ServerThread

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

ENVIRONMENT = {
    "TRUSS_MODEL_ID": "demo",
    "TRUSS_MODEL_DTYPE": "float32",
    "TRUSS_MODEL_ENGINE_MAX_ROWS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
KEY = "a key for the real stack"
PATIENCE = 120_000  # milliseconds: the machine may be busy with other things
LONG = 1800  # tokens, which take half a minute; who stops an answer does not wait for so many


@pytest.fixture(scope="module")
def real_truss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    image = assemble(REPOSITORY, tmp_path_factory.mktemp("image"))
    with start_truss(image, port, tmp_path_factory.mktemp("truss"), environment=ENVIRONMENT) as process:
        wait_truss(process, port, 200)
        yield truss_url(port)


def adapter(truss: str, keys: Keys) -> ServerThread:
    models = {"smollm2": ModelEntry(url=truss)}
    return ServerThread(
        create_app(
            AdapterSettings(models=models, keys=keys, server=Server(web=True), observe=Observe(access_log="off"))
        )
    )


@pytest.fixture(scope="module")
def real_site(real_truss: str) -> Iterator[str]:
    server = adapter(real_truss, Keys())
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def opened(open_page: Any, real_site: str) -> tuple[Page, Watch]:
    page, watch = open_page(real_site)
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return page, watch


@pytest.fixture
def page(opened: tuple[Page, Watch]) -> Page:
    return opened[0]


@pytest.fixture
def watch(opened: tuple[Page, Watch]) -> Watch:
    return opened[1]


def set_fields(page: Page, **fields: str) -> Locator:
    panel = open_settings(page)
    for label, value in fields.items():
        panel.get_by_label(label.replace("_", " ")).fill(value)
    return panel


def test_it_answers_and_streams(page: Page) -> None:
    set_fields(page, Temperature="0", Max_tokens="100")
    answer = finished(ask(page, "What is the capital of France?"))
    expect(answer.locator(".markdown")).to_contain_text("Paris")
    shown = facts(answer)
    assert set(shown) == {"ttft", "speed", "prompt", "answer", "finish", "request"}
    assert shown["finish"] in ("stop", "length")
    again = finished(ask(page, "And of Italy?"))
    assert facts(again)["prompt"].endswith("cached")
    page.evaluate(
        """() => {
            window.lengths = [];
            new MutationObserver(() => {
                const answer = document.querySelectorAll(".message.assistant")[2]?.querySelector(".markdown");
                if (answer) window.lengths.push(answer.textContent.length);
            }).observe(document.getElementById("thread"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    finished(ask(page, "Tell me a long story of a bridge."))
    assert len({length for length in page.evaluate("window.lengths") if length}) > 3
    reload(page)
    expect(page.locator(".message.assistant").first.locator(".markdown")).to_contain_text("Paris")


def metric(truss: str, name: str) -> float:
    """What the model's own metrics say."""
    with urlopen(urljoin(truss, "/metrics/")) as response:
        lines = response.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"truss_model_{name} ")))


def test_stop_frees_the_row(page: Page, real_site: str, real_truss: str) -> None:
    """The model has one row: another request is answered only when the stopped one has given it back."""
    made = metric(real_truss, "generated_tokens_total")
    set_fields(page, Temperature="0", Max_tokens=str(LONG), Frequency_penalty="-2")
    answer = ask(page, "Say the word yes again and again, for ever.")
    expect(answer.locator(".markdown")).not_to_be_empty()
    assert metric(real_truss, "rows_running") == 1
    page.get_by_role("button", name="Stop").click()
    finished(answer)
    assert facts(answer)["finish"] == "stopped by you"
    with OpenAI(api_key="any", base_url=f"{real_site}/v1", max_retries=0, timeout=120) as client:
        other = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Hello"}], max_tokens=2
        )
    assert other.choices[0].finish_reason == "length"
    while metric(real_truss, "rows_running"):
        page.wait_for_timeout(100)
    assert metric(real_truss, "generated_tokens_total") - made < LONG


def test_the_models_refusal_names_the_field(page: Page, watch: Watch) -> None:
    watch.expect("status of 400")
    answer = finished(ask(page, "too long " * 8000))
    error = answer.get_by_role("alert")
    expect(error).to_contain_text("context_length_exceeded")
    expect(error).to_contain_text("Field: messages")


def test_the_token_view_shows_the_apis_logprobs(page: Page, real_site: str) -> None:
    set_fields(page, Temperature="0", Max_tokens="12")
    page.get_by_role("button", name="Probabilities").click()
    answer = finished(ask(page, "Name three colours."))
    with OpenAI(api_key="any", base_url=f"{real_site}/v1", max_retries=0, timeout=60) as client:
        completion = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Name three colours."}],
            temperature=0,
            max_tokens=12,
            logprobs=True,
            top_logprobs=5,
        )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    answer.get_by_role("button", name="Tokens").click()
    tokens = answer.get_by_role("option")
    expect(tokens).to_have_count(len(logprobs.content))
    for at, entry in enumerate(logprobs.content):
        tokens.nth(at).click()
        expect(answer.locator(".token-details caption")).to_have_text(f"Token {at + 1}")
        rows = answer.locator(".token-details tbody tr").all()
        shown = {row.get_attribute("data-token"): float(row.get_attribute("data-logprob") or "nan") for row in rows}
        expected = {each.token: each.logprob for each in (entry, *entry.top_logprobs)}
        # Two runs of the model: the second finds its prompt cached, and sums in another order.
        assert shown == pytest.approx(expected, abs=1e-3)


def test_what_the_model_is_made_to_say_does_not_run(page: Page) -> None:
    attack = "<img src=x onerror='window.ran=1'><script>window.ran=1</script>"
    panel = set_fields(page, Max_tokens="80")
    panel.get_by_label("Answer as").select_option("json_schema")
    panel.get_by_label("JSON schema").fill(json.dumps({"type": "string", "enum": [attack]}))
    answer = finished(ask(page, attack))
    expect(answer.locator(".markdown")).to_contain_text(attack)
    expect(page.locator(".message.user .text")).to_have_text(attack)
    assert page.locator("#thread").locator("img, script").count() == 0
    assert page.evaluate("window.ran") is None


def test_a_tool_call_is_answered_by_hand(page: Page) -> None:
    panel = set_fields(page, Temperature="0", Max_tokens="120")
    panel.get_by_role("button", name="Add a tool").click()
    panel.get_by_label("Tool choice").select_option("get_weather")
    panel.get_by_label("Parallel calls").uncheck()
    answer = finished(ask(page, "What is the weather in Oslo?"))
    expect(answer.get_by_role("region", name="Call of get_weather")).to_contain_text('"city"')
    panel.get_by_label("Tool choice").select_option("none")
    answer.get_by_role("textbox", name="Result of get_weather").fill('{"celsius": 4}')
    answer.get_by_role("button", name="Send result").click()
    last = finished(page.locator(".message.assistant").nth(1))
    expect(last.locator(".markdown")).not_to_be_empty()


def test_an_export_comes_back_the_same(page: Page, tmp_path: Path) -> None:
    set_fields(page, Max_tokens="8")
    page.get_by_role("button", name="Probabilities").click()
    finished(ask(page, "Hello"))
    before = stored(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export", exact=True).click()
    file = tmp_path / "conversation.json"
    download.value.save_as(file)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Hello").click()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_label("File to import").set_input_files(file)
    expect(page.locator(".message")).to_have_count(2)
    assert stored(page) == before


def test_a_key_is_asked_for(open_page: Any, real_truss: str) -> None:
    client = ClientKey(name="tester", sha256=hashlib.sha256(KEY.encode()).hexdigest())
    server = adapter(real_truss, Keys(mode="list", clients=(client,)))
    server.start()
    try:
        page, watch = open_page(server.url)
        watch.expect("status of 401")
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_role("button", name="Use key").click()
        set_fields(page, Max_tokens="4")
        answer = finished(ask(page, "Hello"))
        assert facts(answer)["finish"] in ("length", "stop")
    finally:
        server.stop()
