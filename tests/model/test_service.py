import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from truss_model.engine.generation import Generation, TokenOutput
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import EngineUnwell, QueueFull, RequestError, TrussModelError
from truss_model.service import PREPARERS, Reply, Service
from truss_model.settings import ServingSettings
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

HELLO = [{"role": "user", "content": "Hello"}]


class ScriptedEngine:
    """Takes requests and does with them what the test says."""

    def __init__(self, max_model_len: int = 100, refusal: TrussModelError | None = None) -> None:
        self.max_model_len = max_model_len
        self.healthy = True
        self.refusal = refusal
        self.prompts: list[Sequence[int]] = []
        self.params: list[SamplingParams] = []
        self.cancelled: list[int | None] = []
        self.cancellation = asyncio.Event()
        self.submitted: asyncio.Queue[Generation] = asyncio.Queue()

    def check_room(self) -> None:
        if isinstance(self.refusal, QueueFull | EngineUnwell):
            raise self.refusal

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation:
        if self.refusal is not None:
            raise self.refusal
        self.prompts.append(prompt)
        self.params.append(params)
        generation = Generation(len(prompt), n, self._cancel)
        self.submitted.put_nowait(generation)
        return generation

    def _cancel(self, generation: Generation, index: int | None) -> None:
        self.cancelled.append(index)
        self.cancellation.set()


class Caller:
    """Is there until it leaves."""

    def __init__(self) -> None:
        self.left = False
        self.asked = 0

    async def gone(self) -> bool:
        self.asked += 1
        return self.left


@pytest.fixture(scope="module")
def serve(tokenizer: ChatTokenizer) -> Any:
    def make(engine: ScriptedEngine, **settings: Any) -> Service:
        return Service(engine, tokenizer, ServingSettings(**settings), "m")

    return make


async def finish(engine: ScriptedEngine, ids: Sequence[int] = (23325,)) -> None:
    generation = await engine.submitted.get()
    generation.admit(0)
    generation.deliver(TokenOutput(0, list(ids), [], "length"))


async def lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.lines is not None
    return [json.loads(line) for line in b"".join([line async for line in reply.lines]).splitlines()]


async def test_a_plain_answer(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    reply, _ = await asyncio.gather(
        serve(engine).predict({"messages": HELLO, "temperature": 0, "max_tokens": 5}, 50, caller.gone), finish(engine)
    )
    assert reply.status == 200 and reply.lines is None
    assert reply.body["choices"][0]["text"] == "Hello"
    assert engine.params == [SamplingParams(max_tokens=5, temperature=0.0)]


async def test_a_large_body_is_prepared_the_same_in_a_thread(serve: Any) -> None:
    engine, service, caller = ScriptedEngine(), None, Caller()
    service = serve(engine)
    for size in (50, 1_000_000):
        await asyncio.gather(service.predict({"messages": HELLO}, size, caller.gone), finish(engine))
    assert engine.prompts[0] == engine.prompts[1]
    assert engine.params[0] == engine.params[1]


async def test_a_crowd_of_large_bodies_is_prepared_by_few_threads(serve: Any) -> None:
    """A thread that is started late, in the largest crowd so far, would look like a leak of its heap's size."""
    engine = ScriptedEngine()
    service = serve(engine)
    before = threading.active_count()
    asked = [service.predict({"messages": HELLO}, 1_000_000, Caller().gone) for _ in range(50)]
    replies = await asyncio.gather(*asked, *(finish(engine) for _ in asked))
    assert [reply.status for reply in replies[: len(asked)]] == [200] * len(asked)
    assert threading.active_count() - before <= PREPARERS


async def test_a_stream(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    reply, _ = await asyncio.gather(
        serve(engine).predict({"prompt": [1, 2, 3], "stream": True}, 50, caller.gone), finish(engine)
    )
    assert [event["event"] for event in await lines(reply)] == ["start", "delta", "finish", "done"]
    assert engine.prompts == [(1, 2, 3)]


@pytest.mark.parametrize(
    ("asked", "settings", "given"),
    [
        (None, {}, 97),
        (None, {"default_max_tokens": 20}, 20),
        (None, {"maximum_max_tokens": 30}, 30),
        (None, {"default_max_tokens": 200}, 97),
        (40, {"default_max_tokens": 20}, 40),
        (1000, {}, 1000),
    ],
)
async def test_how_many_tokens_a_request_may_make(
    serve: Any, asked: int | None, settings: dict[str, int], given: int
) -> None:
    engine, caller = ScriptedEngine(max_model_len=100), Caller()
    body = {"prompt": [1, 2, 3], "max_tokens": asked}
    await asyncio.gather(serve(engine, **settings).predict(body, 50, caller.gone), finish(engine))
    assert engine.params[0].max_tokens == given


@pytest.mark.parametrize(
    ("setting", "asked", "given"),
    [
        ("refuse", None, 1000),
        ("refuse", "clamp", 97),
        ("clamp", None, 97),
        ("clamp", "refuse", 1000),
        ("clamp", "clamp", 97),
    ],
)
async def test_tokens_over_the_context_are_lowered_where_settings_or_request_say_so(
    serve: Any, setting: str, asked: str | None, given: int
) -> None:
    engine, caller = ScriptedEngine(max_model_len=100), Caller()
    body = {"prompt": [1, 2, 3], "max_tokens": 1000, "max_tokens_over_context": asked}
    service = serve(engine, max_tokens_over_context=setting)
    await asyncio.gather(service.predict(body, 50, caller.gone), finish(engine))
    await asyncio.gather(service.predict(body | {"max_tokens": 5}, 50, caller.gone), finish(engine))
    assert [params.max_tokens for params in engine.params] == [given, 5]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": HELLO, "model": "x"}, "model"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": HELLO, "logit_bias": {"32768": 1}}, "logit_bias"),
        ({"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ([], "body"),
    ],
)
async def test_what_the_caller_did_wrong_is_found_before_anything_runs(serve: Any, body: Any, param: str) -> None:
    engine, caller = ScriptedEngine(), Caller()
    reply = await serve(engine).predict(body, 50, caller.gone)
    assert (reply.status, reply.lines) == (400, None)
    assert reply.body["error"]["type"] == "invalid_request_error"
    assert reply.body["error"]["param"].startswith(param)
    assert engine.prompts == []


@pytest.mark.parametrize(
    ("refusal", "status", "headers"),
    [
        (QueueFull("full", retry_after=1.2), 429, {"Retry-After": "2"}),
        (EngineUnwell("broken"), 503, {}),
        (RequestError("too long", param="messages", code="context_length_exceeded"), 400, {}),
    ],
)
async def test_what_the_engine_refuses_keeps_its_status(
    serve: Any, refusal: TrussModelError, status: int, headers: dict[str, str]
) -> None:
    for body in ({"messages": HELLO}, {"messages": HELLO, "stream": True}):
        reply = await serve(ScriptedEngine(refusal=refusal)).predict(body, 50, Caller().gone)
        assert (reply.status, reply.headers, reply.lines) == (status, headers, None)


async def test_a_full_queue_refuses_before_a_body_costs_anything(serve: Any) -> None:
    engine = ScriptedEngine(refusal=QueueFull("full", retry_after=2))
    reply = await serve(engine).predict({"tools": 1}, 50, Caller().gone)
    assert (reply.status, reply.headers) == (429, {"Retry-After": "2"})


async def test_a_prompt_too_long_is_the_prompts_fault(serve: Any) -> None:
    refusal = RequestError("too long", param="messages", code="context_length_exceeded")
    reply = await serve(ScriptedEngine(refusal=refusal)).predict({"prompt": "x"}, 50, Caller().gone)
    assert reply.body["error"]["param"] == "prompt"


async def test_a_stream_that_waited_too_long_is_refused_with_its_status(serve: Any) -> None:
    engine = ScriptedEngine()
    task = asyncio.create_task(serve(engine).predict({"messages": HELLO, "stream": True}, 50, Caller().gone))
    (await engine.submitted.get()).fail(QueueFull("waited", retry_after=5))
    assert ((await task).status, (await task).headers) == (429, {"Retry-After": "5"})


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_plain_caller_who_leaves_is_dropped(serve: Any, admitted: bool) -> None:
    engine, caller = ScriptedEngine(), Caller()
    task = asyncio.create_task(serve(engine).predict({"messages": HELLO}, 50, caller.gone))
    generation = await engine.submitted.get()
    if admitted:
        generation.admit(0)
    caller.left = True
    assert (await task).status == 499
    assert engine.cancelled == [None]


async def test_a_streaming_caller_who_leaves_is_dropped(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    task = asyncio.create_task(serve(engine).predict({"messages": HELLO, "stream": True}, 50, caller.gone))
    (await engine.submitted.get()).admit(0)
    reply = await task
    caller.left = True
    assert [event["event"] for event in await lines(reply)] == ["start", "error"]
    assert engine.cancelled == [None]


async def test_a_stream_that_nobody_reads_is_dropped_with_its_caller(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    task = asyncio.create_task(serve(engine).predict({"messages": HELLO, "stream": True}, 50, caller.gone))
    (await engine.submitted.get()).admit(0)
    reply = await task
    assert (reply.status, engine.cancelled) == (200, [])
    caller.left = True
    await engine.cancellation.wait()
    assert engine.cancelled == [None]  # the whole request, once, and its lines were never read


async def test_nobody_is_watched_after_the_answer(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    before = asyncio.all_tasks()
    service = serve(engine)
    for stream in (False, True):
        reply, _ = await asyncio.gather(
            service.predict({"messages": HELLO, "stream": stream}, 50, caller.gone), finish(engine)
        )
        if stream:
            await lines(reply)
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_draining_refuses_the_new_and_ends_the_running(serve: Any) -> None:
    engine, caller = ScriptedEngine(), Caller()
    service = serve(engine, drain_seconds=0.01)
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": True}, 50, caller.gone))
    (await engine.submitted.get()).admit(0)
    running = await task
    assert service.healthy
    service.drain()
    service.drain()
    assert not service.healthy
    assert (await service.predict({"messages": HELLO}, 50, caller.gone)).status == 503
    events = await lines(running)
    assert [(event["event"], event.get("status")) for event in events] == [("start", None), ("error", 503)]


async def test_health_is_the_engines(serve: Any) -> None:
    engine = ScriptedEngine()
    service = serve(engine)
    assert service.healthy
    engine.healthy = False
    assert not service.healthy
