"""OpenAI's routes of the Truss: the same bytes as the adapter in front of it, and what only they have to see to."""

import asyncio
import json
import re
from contextlib import aclosing
from typing import Any

import pytest

from tests.adapter.harness import running_bridge, settings_for
from tests.adapter.stub import Request, Wire, running_stub
from tests.model.scripted_service import Batches, ScriptedAnswer, ScriptedService
from truss_model.errors import EngineUnwell, GenerationFailed, QueueFull, RequestError, TrussModelError
from truss_model.openai_routes import Answer, OpenAIRoutes, RequestContext
from truss_model.output.events import (
    DoneEvent,
    ErrorEvent,
    FinishEvent,
    StartEvent,
    TextEvent,
    ToolCallEvent,
    Usage,
    lines,
)
from truss_model.service import refusal
from truss_model.settings import ServingSettings

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
START = [StartEvent(5, 2, "m")]
DONE = [DoneEvent(Usage(5, 3, 2))]
ENTRY = {
    "token": "é",
    "logprob": -0.1,
    "bytes": [195, 169],
    "top_logprobs": [{"token": "e", "logprob": -2.5, "bytes": [101]}],
}
HELLO: Batches = [START, [TextEvent(0, "Hé\n", 1)], [TextEvent(0, "llo", 2), FinishEvent(0, "stop")], DONE]
CALLED: Batches = [
    START,
    [TextEvent(0, "Well.", 2)],
    [ToolCallEvent(0, 0, "abcdefghi", "weather", '{"city"', 4)],
    [ToolCallEvent(0, 0, None, None, ':"Oslo"}', 3), ToolCallEvent(0, 1, "jklmnopqr", "weather", "{}", 2)],
    [FinishEvent(0, "tool_calls")],
    DONE,
]


async def present() -> bool:
    return False


async def answered(service: ScriptedService, path: str, body: object, **settings: Any) -> Answer:
    return await OpenAIRoutes(service, ServingSettings(**settings)).answer(path, body, RequestContext(100, present))


async def ask(path: str, body: object, *scripts: Batches | TrussModelError, request_id: str | None = None) -> Answer:
    routes = OpenAIRoutes(ScriptedService(*scripts), ServingSettings())
    return await routes.answer(path, body, RequestContext(100, present, request_id))


async def read(answer: Answer) -> bytes:
    return answer.body if answer.events is None else b"".join([piece async for piece in answer.events])


def comparable(body: bytes) -> str:
    """Without what is new for every answer: ids and times."""
    text = re.sub(r'"(chatcmpl-|cmpl-|resp_|msg_|fc_)[0-9a-f]{24,32}"', r'"\1id"', body.decode())
    return re.sub(r'"(created|created_at|completed_at)":\d+', r'"\1":0', text)


HEADERS = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-should-retry")
USAGE = {"stream_options": {"include_usage": True}}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
TWO: Batches = [
    START,
    [TextEvent(0, "a", 1), TextEvent(1, "b", 1)],
    [FinishEvent(1, "length"), TextEvent(0, "c", 1), FinishEvent(0, "stop")],
    DONE,
]
LOGPROBS: Batches = [START, [TextEvent(0, "é", 1, [ENTRY])], [FinishEvent(0, "stop")], DONE]
BROKEN: Batches = [START, [TextEvent(0, "Hé", 1)], [ErrorEvent(GenerationFailed("a step failed"))]]
BROKEN_AT_ONCE: Batches = [START, [ErrorEvent(EngineUnwell("the engine stopped"))]]
ANSWERS: dict[str, tuple[str, dict[str, Any], Batches]] = {
    "text": ("/chat/completions", CHAT, HELLO),
    "usage": ("/chat/completions", CHAT | USAGE, HELLO),
    "continuous usage": ("/chat/completions", CHAT | CONTINUOUS, HELLO),
    "service tier": ("/chat/completions", CHAT | {"service_tier": "auto"}, HELLO),
    "choices": ("/chat/completions", CHAT | {"n": 2} | USAGE, TWO),
    "log probabilities": ("/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1}, LOGPROBS),
    "tools": ("/chat/completions", CHAT | {"tools": TOOLS}, CALLED),
    "functions": ("/chat/completions", CHAT | {"functions": [FUNCTION]}, CALLED),
    "completion": ("/completions", {"model": "m", "prompt": "Hi"} | USAGE, HELLO),
    "echo": ("/completions", {"model": "m", "prompt": "Hi", "echo": True}, HELLO),
    "completion with log probabilities": ("/completions", {"model": "m", "prompt": "Hi", "logprobs": 1}, LOGPROBS),
    "response": ("/responses", {"model": "m", "input": "Hi"}, HELLO),
    "response with tools": (
        "/responses",
        {"model": "m", "input": "Hi", "tools": [{"type": "function", **FUNCTION}]},
        CALLED,
    ),
    "fault": ("/chat/completions", CHAT, BROKEN),
    "fault in a response": ("/responses", {"model": "m", "input": "Hi"}, BROKEN),
    "fault before the first piece": ("/chat/completions", CHAT, BROKEN_AT_ONCE),
}
REFUSED: dict[str, tuple[dict[str, Any], TrussModelError | None]] = {
    "full": (CHAT, QueueFull("The queue is full.", retry_after=1.5)),
    "draining": (CHAT, EngineUnwell("The server is shutting down.")),
    "failed": (CHAT, GenerationFailed("a step failed")),
    "too long": (CHAT, RequestError("too long", param="messages", code="context_length_exceeded")),
    "unknown field": (CHAT | {"best_of": 2}, None),
    "unsupported": (CHAT | {"audio": {}}, None),
    "out of range": (CHAT | {"temperature": 9}, None),
    "no model": ({"messages": CHAT["messages"]}, None),
}


async def through_the_adapter(
    path: str, body: dict[str, Any], script: Batches | TrussModelError
) -> tuple[int, Any, str]:
    async def play(request: Request, wire: Wire) -> None:
        if isinstance(script, TrussModelError):
            reply = refusal(script)
            headers = [f"{name}: {value}" for name, value in reply.headers.items()]
            await wire.json(reply.body, reply.status, headers)
        elif request.json.get("stream"):
            await wire.stream("".join(lines(batch) for batch in script).encode())
        else:
            try:
                await wire.json(await ScriptedAnswer(script).whole())
            except TrussModelError as error:
                await wire.json(refusal(error).body, error.status)

    async with running_stub(play) as stub:
        async with running_bridge(settings_for(stub.url, model={"retries": {"attempts": 0}})) as bridge:
            answered = await bridge.post(f"/v1{path}", body)
            return answered.status, answered.headers, comparable(answered.body)


async def check_same(path: str, body: dict[str, Any], script: Batches | TrussModelError) -> None:
    answer = await ask(path, body, script)
    status, headers, text = await through_the_adapter(path, body, script)
    assert (answer.status, comparable(await read(answer))) == (status, text)
    assert [answer.headers.get(name) for name in HEADERS] == [headers.get(name) for name in HEADERS]
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
async def test_both_fronts_make_the_same_bytes_of_the_same_events(name: str, stream: bool) -> None:
    path, body, batches = ANSWERS[name]
    if stream:
        await check_same(path, body | {"stream": True}, batches)
    else:
        await check_same(path, {key: value for key, value in body.items() if key != "stream_options"}, batches)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
async def test_both_fronts_refuse_with_the_same_bytes(name: str, stream: bool) -> None:
    body, error = REFUSED[name]
    await check_same("/chat/completions", body | {"stream": stream}, error or HELLO)


async def test_several_prompts_are_one_answer() -> None:
    body = {"model": "m", "prompt": ["Hi", "Ho"], "n": 2, "stream": True} | USAGE
    text = (await read(await ask("/completions", body, TWO, TWO))).decode()
    *chunks, last, done = [line.removeprefix("data: ") for line in text.splitlines() if line]
    choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
    told = {index: "".join(each["text"] for each in choices if each["index"] == index) for index in range(4)}
    assert told == {0: "ac", 1: "b", 2: "ac", 3: "b"}
    assert (json.loads(last)["usage"]["total_tokens"], done) == (16, "[DONE]")
    plain = json.loads((await ask("/completions", body | {"stream": False, "stream_options": None}, TWO, TWO)).body)
    assert [choice["text"] for choice in plain["choices"]] == ["ac", "b", "ac", "b"]
    assert plain["usage"]["total_tokens"] == 16


@pytest.mark.parametrize("stream", [False, True])
async def test_one_of_several_prompts_is_refused(stream: bool) -> None:
    refused = RequestError("too long", param="prompt", code="context_length_exceeded")
    service = ScriptedService(HELLO, refused)
    body = {"model": "m", "prompt": ["Hi", "Ho"], "stream": stream}
    answer = await answered(service, "/completions", body)
    text = (await read(answer)).decode()
    assert (
        json.loads(text if answer.events is None else text.split("\n\n")[-3].removeprefix("data: "))["error"]["param"]
        == "prompt"
    )
    assert not stream or all(each.closed for each in service.answers)


async def test_silence_is_filled_with_comments() -> None:
    answer = await ask("/chat/completions", CHAT | {"stream": True}, [START, [], *HELLO[1:2], [], [], *HELLO[2:]])
    text = (await read(answer)).decode()
    assert text.startswith(": keep-alive\n\ndata: ")
    assert text.count(": keep-alive\n\n") == 3
    assert text.endswith("data: [DONE]\n\n")


async def test_a_stream_that_is_closed_closes_its_answer() -> None:
    for body in ({"model": "m", "prompt": "Hi"}, {"model": "m", "prompt": ["Hi", "Ho"]}):
        service = ScriptedService(HELLO, HELLO)
        answer = await answered(service, "/completions", body | {"stream": True})
        assert answer.events is not None
        async with aclosing(answer.events) as pieces:  # type: ignore[type-var]
            await anext(pieces)
        assert all(each.closed for each in service.answers)


async def test_a_stream_that_nobody_reads_is_closed_when_it_is_dropped() -> None:
    service = ScriptedService(HELLO)
    await answered(service, "/chat/completions", CHAT | {"stream": True})
    async with asyncio.timeout(10):
        while not service.answers[0].closed:
            await asyncio.sleep(0)


@pytest.mark.parametrize("body", [[], "Hi", None, 7])
async def test_a_body_that_is_no_object(body: object) -> None:
    answer = await ask("/chat/completions", body)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "invalid_type")


async def test_what_json_cannot_hold_is_refused_before_it_is_repeated() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for body in (
        CHAT | {"model": "\ud800"},
        {"model": "m", "input": "Hi", "instructions": "\udfff"},
        CHAT | {"tools": deep},
    ):
        answer = await ask("/responses" if "input" in body else "/chat/completions", body)
        assert answer.status == 400, answer.body


async def test_an_unforeseen_exception_is_openais_error_too(caplog: pytest.LogCaptureFixture) -> None:
    answer = await ask("/chat/completions", CHAT)  # the service has no script for it
    assert (answer.status, json.loads(answer.body)["error"]["type"]) == (500, "server_error")
    assert "IndexError" in caplog.text


async def test_a_request_keeps_its_own_id() -> None:
    assert (await ask("/chat/completions", CHAT, HELLO, request_id="r-1")).headers["x-request-id"] == "r-1"
    assert (await ask("/chat/completions", CHAT, HELLO, request_id="a b")).headers["x-request-id"].startswith("req_")
    assert (await ask("/chat/completions", {}, request_id="r-2")).headers["x-request-id"] == "r-2"


async def test_the_settings_let_pass_what_some_clients_send() -> None:
    body = CHAT | {"stop": [str(i) for i in range(9)], "repeat_penalty": 1.1}
    answer = await ask("/chat/completions", body)
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "repeat_penalty")
    answer = await ask("/chat/completions", CHAT | {"stop": body["stop"]})
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "stop")
    service = ScriptedService(HELLO)
    answer = await answered(service, "/chat/completions", body, max_stop_strings=9, unknown_fields="drop")
    assert (answer.status, answer.headers["x-bridge-dropped-fields"]) == (200, "repeat_penalty")
    assert service.bodies == [{"messages": CHAT["messages"], "stop": body["stop"]}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_names_the_field_as_the_request_does(stream: bool) -> None:
    refused = RequestError("Invalid 'messages': too long.", param="messages", code="context_length_exceeded")
    service = ScriptedService(refused)
    body = {"model": "m", "input": "Hi", "stream": stream, "colour": "red"}
    answer = await answered(service, "/responses", body, unknown_fields="drop")
    assert (answer.status, answer.headers["x-bridge-dropped-fields"]) == (400, "colour")
    told = json.loads(answer.body)["error"]
    assert (told["param"], told["message"]) == ("input", "Invalid 'input': too long.")
