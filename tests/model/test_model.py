"""The class that Truss sees, with its own engine on the tiny model, and with a service that fails to load."""

import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import JSONResponse

from truss_model.engine.engine import Engine
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError
from truss_model.loading import load_model
from truss_model.model import Model, StreamedResponse
from truss_model.service import Service
from truss_model.settings import ModelSettings, ServingSettings
from truss_model.startup import build_service
from truss_model.tokenizer.chat_tokenizer import load_tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
CONFIG = {"model_metadata": {"engine": {"kv_cache_bytes": 10_000_000}}}
LONG = 1900  # tokens, which take seconds: no caller waits for so many


@pytest.fixture(scope="module")
def engine(tiny_mistral: Path) -> Iterator[Engine]:
    loaded = load_model(ModelSettings(device="cpu", path=tiny_mistral), {}, None)
    engine = Engine(loaded.model, EngineSettings(kv_cache_bytes=10_000_000), eos_token_ids=frozenset({2}))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def model(engine: Engine, tiny_mistral: Path) -> Model:
    def build(config: Mapping[str, Any], token: str | None) -> Service:
        return Service(engine, load_tokenizer(tiny_mistral), ServingSettings(drain_seconds=0.01), "tiny")

    model = Model({}, {}, build=build)
    model.load()
    return model


class Connection:
    """A caller's connection, as the server shows it to an application."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.closed.wait()
        return {"type": "http.disconnect"}

    def request(self) -> Request:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"100")]}
        return Request(scope, self.receive)


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Whatever a test does with the handler of SIGTERM, it is put back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


pytestmark = pytest.mark.usefixtures("sigterm")


async def events(answer: StreamedResponse) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join([piece async for piece in answer.body_iterator]).splitlines() if line]


async def idle(engine: Engine) -> None:
    async with asyncio.timeout(30):
        while engine.stats().rows_running or engine.stats().requests_waiting:
            await asyncio.sleep(0.01)


async def test_plain_and_streamed_answers_are_the_same(model: Model) -> None:
    body = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "n": 2}
    plain = await model.predict(body, Connection().request())
    streamed = await events(await model.predict(body | {"stream": True}, Connection().request()))
    assert plain["model"] == streamed[0]["model"] == "tiny"
    for choice in plain["choices"]:
        told = "".join(event.get("text", "") for event in streamed if event.get("index") == choice["index"])
        assert told == choice["text"] != ""
    assert plain["usage"]["completion_tokens"] == streamed[-1]["usage"]["completion_tokens"] == 16


async def test_a_refusal_is_a_response_with_its_status(model: Model) -> None:
    answer = await model.predict({"messages": HELLO, "stream": True, "top_p": 2}, Connection().request())
    assert isinstance(answer, JSONResponse)
    assert answer.status_code == 400
    assert json.loads(bytes(answer.body))["error"]["param"] == "top_p"


async def test_a_prompt_longer_than_the_context(model: Model, engine: Engine) -> None:
    answer = await model.predict({"prompt": [5] * (engine.max_model_len + 1)}, Connection().request())
    assert answer.status_code == 400
    error = json.loads(bytes(answer.body))["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_leaves_frees_the_row(model: Model, engine: Engine, stream: bool) -> None:
    await idle(engine)
    made = engine.stats().generated_tokens
    pages = engine.stats().pages_free
    connection = Connection()
    body = {"prompt": [5], "max_tokens": LONG, "n": 2, "ignore_eos": True, "stream": stream}
    task = asyncio.create_task(model.predict(body, connection.request()))
    async with asyncio.timeout(30):
        while engine.stats().generated_tokens == made:
            await asyncio.sleep(0.001)
    connection.closed.set()
    answer = await task
    if isinstance(answer, StreamedResponse):
        assert (await events(answer))[-1]["status"] == 499
    else:
        assert answer.status_code == 499  # also of a stream, if its caller left before the first line
    await idle(engine)
    assert engine.stats().generated_tokens - made < 2 * LONG
    assert engine.stats().pages_free == pages


CHAT: dict[str, Any] = {"model": "any", "messages": HELLO, "max_tokens": LONG, "ignore_eos": True}


async def test_openais_routes_answer_with_responses_of_their_own(model: Model) -> None:
    """Truss would send a plain generator as octets, or gather it, and would lose the headers of an HTTPException."""
    for method, body in (
        (model.chat_completions, CHAT | {"max_tokens": 8}),
        (model.completions, {"model": "any", "prompt": "Hi", "max_tokens": 8}),
        (model.responses, {"model": "any", "input": "Hi", "max_output_tokens": 8}),
    ):
        plain = await method(body, Connection().request())
        assert (plain.status_code, plain.headers["content-type"]) == (200, "application/json")
        streamed = await method(body | {"stream": True}, Connection().request())
        assert isinstance(streamed, StreamedResponse)
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert streamed.headers["x-request-id"]
        async for _ in streamed.body_iterator:
            pass
    refused = await model.chat_completions(CHAT | {"n": 0}, Connection().request())
    assert (refused.status_code, json.loads(bytes(refused.body))["error"]["param"]) == (400, "n")


async def until_tokens_are_made(engine: Engine, made: int) -> None:
    async with asyncio.timeout(30):
        while engine.stats().generated_tokens == made:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("phase", ["plain", "before the first piece", "between pieces"])
async def test_who_leaves_openais_routes_frees_the_rows(model: Model, engine: Engine, phase: str) -> None:
    await idle(engine)
    made, pages = engine.stats().generated_tokens, engine.stats().pages_free
    connection = Connection()
    # No token of this answer can be shown: they are all control tokens.
    silent = {"logit_bias": {"5": 100, "6": 100}, "temperature": 0} if phase == "before the first piece" else {}
    body = CHAT | {"n": 2, "stream": phase != "plain"} | silent
    task = asyncio.create_task(model.chat_completions(body, connection.request()))
    await until_tokens_are_made(engine, made)
    if phase == "between pieces":
        answer = await task
        assert isinstance(answer, StreamedResponse)
        await anext(aiter(answer.body_iterator))
        connection.closed.set()
        assert "[DONE]" in b"".join([piece async for piece in answer.body_iterator]).decode()
    else:
        connection.closed.set()
        assert (await task).status_code == 499
    await idle(engine)
    assert engine.stats().generated_tokens - made < 2 * LONG
    assert engine.stats().pages_free == pages


async def test_a_stream_of_openais_routes_that_nobody_reads_frees_its_rows(model: Model, engine: Engine) -> None:
    """The server drops the response of a caller who left before it began."""
    await idle(engine)
    made = engine.stats().generated_tokens
    await model.chat_completions(CHAT | {"stream": True}, Connection().request())
    await idle(engine)
    assert engine.stats().generated_tokens - made < LONG


async def test_openais_routes_drain_with_the_rest(model: Model) -> None:
    streamed = await model.chat_completions(CHAT | {"n": 8, "stream": True}, Connection().request())
    assert isinstance(streamed, StreamedResponse)
    signal.raise_signal(signal.SIGTERM)
    text = b"".join([piece async for piece in streamed.body_iterator])
    assert b"The server shut down before the answer was complete." in text and text.endswith(b"data: [DONE]\n\n")
    assert (await model.chat_completions(CHAT, Connection().request())).status_code == 503


async def test_sigterm_ends_what_runs_and_refuses_what_comes(model: Model) -> None:
    body = {"prompt": [5], "max_tokens": LONG, "n": 8, "ignore_eos": True, "stream": True}
    lines = await model.predict(body, Connection().request())
    assert await model.is_healthy()
    signal.raise_signal(signal.SIGTERM)
    told = await events(lines)
    assert (told[-1]["event"], told[-1]["status"]) == ("error", 503)
    assert not await model.is_healthy()
    assert (await model.predict(body, Connection().request())).status_code == 503


async def test_the_servers_own_handler_of_sigterm_still_runs(model: Model) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    await model.predict({"prompt": [5], "max_tokens": 1}, Connection().request())
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


class NoSecrets(dict[str, str]):
    def __getitem__(self, name: str) -> str:
        raise RuntimeError(f"SecretNotFound: {name}")  # Truss's own is a plain Exception


@pytest.mark.parametrize(
    ("secrets", "token"), [({"hf_access_token": "t"}, "t"), ({"hf_access_token": ""}, None), (NoSecrets(), None)]
)
def test_the_token_comes_from_the_secrets(secrets: dict[str, str], token: str | None) -> None:
    given: list[str | None] = []

    def build(config: Mapping[str, Any], token: str | None) -> Service:
        given.append(token)
        raise LoadError("enough")

    with pytest.raises(LoadError):
        Model({}, secrets, build=build).load()
    assert given == [token]


def test_a_failed_load_says_why(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSS_MODEL_PATH", "/nowhere")
    with pytest.raises(LoadError):
        Model(CONFIG, {}, environment={"name": "staging"}).load()
    assert "The model cannot be loaded. No folder /nowhere" in caplog.text


def failing(failures: list[LoadError], attempts: list[str | None]) -> Model:
    """A model whose loads fail as listed; each attempt is noted."""

    def build(config: Mapping[str, Any], token: str | None) -> Service:
        attempts.append(token)
        raise failures[len(attempts) - 1]

    return Model({}, {}, build=build)


def test_what_cannot_be_loaded_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[str | None] = []
    model = failing([LoadError("No weights.")], attempts)
    for _ in range(2):  # as Truss does it
        with pytest.raises(LoadError, match="No weights"):
            model.load()
    assert len(attempts) == 1
    assert [record.message for record in caplog.records] == ["The model cannot be loaded. No weights."]


def test_a_failure_that_may_pass_is_tried_once_more(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[str | None] = []
    model = failing([LoadError("Cut off.", transient=True), LoadError("Cut off.", transient=True)], attempts)
    for _ in range(3):
        with pytest.raises(LoadError, match="Cut off"):
            model.load()
    assert len(attempts) == 2
    told = ["Cut off. It is tried once more.", "The model cannot be loaded. Cut off."]
    assert [record.message for record in caplog.records] == told


async def test_an_unloaded_model_is_not_healthy() -> None:
    assert not await Model({}, {}).is_healthy()


def test_the_whole_is_built_from_config_and_environment(tiny_mistral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSS_MODEL_PATH", str(tiny_mistral))
    monkeypatch.setenv("TRUSS_MODEL_DEVICE", "cpu")
    service = build_service(CONFIG, None)
    assert service.healthy
    service.stop()
    assert not service.healthy


def test_settings_with_which_the_engine_cannot_start(tiny_mistral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSS_MODEL_PATH", str(tiny_mistral))
    monkeypatch.setenv("TRUSS_MODEL_DEVICE", "cpu")
    monkeypatch.setenv("TRUSS_MODEL_ENGINE_KV_CACHE_BYTES", "10")
    with pytest.raises(LoadError, match="The engine cannot start with these settings: kv_cache_bytes"):
        build_service({}, None)
