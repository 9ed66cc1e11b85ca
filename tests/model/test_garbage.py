"""A request leaves nothing to the garbage collector, however it ends: what it held is free at once."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from fastapi import Request

from tests.garbage import still_held, uncollected  # noqa: F401
from tests.model.test_model import Connection, sigterm  # noqa: F401
from tests.model.test_service import HELLO, Caller, ScriptedEngine, finish, lines
from truss_model.engine.generation import Generation
from truss_model.errors import GenerationFailed, QueueFull, RequestError, TrussModelError
from truss_model.model import Model
from truss_model.output.completion import Completion
from truss_model.output.stream import AnswerWriter
from truss_model.output.tool_call_parser import CallParser
from truss_model.service import Service
from truss_model.settings import ServingSettings
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

TOOL = {"type": "function", "function": {"name": "f"}}
CALL = [5, 29560, 7567, 1629, 2032, 1113, 29490, 1316, 1113, 17452, 2032, 1139, 1743, 29561]  # [{"name": "f", ...
MODEL = {"predict": {}, "chat_completions": {"model": "m"}}  # what the route wants besides messages
HELD = (AnswerWriter, CallParser, Completion, Generation, TrussModelError)


async def complete(service: Service, engine: ScriptedEngine, *, stream: bool) -> None:
    reply, _ = await asyncio.gather(
        service.predict({"messages": HELLO, "stream": stream}, 50, Caller().gone), finish(engine)
    )
    if stream:
        assert (await lines(reply))[-1]["event"] == "done"
    else:
        assert reply.status == 200


async def left(service: Service, engine: ScriptedEngine, *, stream: bool) -> None:
    caller = Caller()
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": stream}, 50, caller.gone))
    (await engine.submitted.get()).admit(0)
    if stream:
        reply = await task
    caller.left = True
    assert (await lines(reply))[-1]["status"] == 499 if stream else (await task).status == 499


async def unread(service: Service, engine: ScriptedEngine) -> None:
    caller = Caller()
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": True}, 50, caller.gone))
    (await engine.submitted.get()).admit(0)
    await task
    caller.left = True
    await engine.cancellation.wait()


async def closed(service: Service, engine: ScriptedEngine) -> None:
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": True}, 50, Caller().gone))
    (await engine.submitted.get()).admit(0)
    pieces = (await task).lines
    assert pieces is not None and b"start" in await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]


async def failed(service: Service, engine: ScriptedEngine, *, stream: bool) -> None:
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": stream}, 50, Caller().gone))
    generation = await engine.submitted.get()
    generation.admit(0)
    if stream:
        await task
    generation.fail(GenerationFailed("A step failed."))
    reply = await task
    assert (await lines(reply))[-1]["status"] == 500 if stream else reply.status == 500


async def overdue(service: Service, engine: ScriptedEngine) -> None:
    task = asyncio.create_task(service.predict({"messages": HELLO, "stream": True}, 50, Caller().gone))
    (await engine.submitted.get()).fail(QueueFull("waited", retry_after=5))
    assert (await task).status == 429


async def called(service: Service, engine: ScriptedEngine) -> None:
    body = {"messages": HELLO, "stream": True, "tools": [TOOL], "tool_choice": "required"}
    reply, _ = await asyncio.gather(service.predict(body, 50, Caller().gone), finish(engine, CALL))
    assert "tool_call" in [event["event"] for event in await lines(reply)]


async def refused(service: Service, engine: ScriptedEngine) -> None:
    engine.refusal = RequestError("too long", param="messages")
    assert (await service.predict({"messages": HELLO}, 50, Caller().gone)).status == 400
    assert (await service.predict({"messages": 5}, 50, Caller().gone)).status == 400
    engine.refusal = None


@pytest.mark.parametrize(
    "ends",
    [
        partial(complete, stream=False),
        partial(complete, stream=True),
        partial(left, stream=False),
        partial(left, stream=True),
        unread,
        closed,
        partial(failed, stream=False),
        partial(failed, stream=True),
        overdue,
        called,
        refused,
    ],
    ids=[
        "plain", "streamed", "left_plain", "left_stream", "unread", "closed", "failed_plain", "failed_stream",
        "overdue", "called", "refused",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("uncollected")
async def test_nothing_is_left_to_the_collector(
    tokenizer: ChatTokenizer, ends: Callable[[Service, ScriptedEngine], Awaitable[None]]
) -> None:
    engine = ScriptedEngine()
    service = Service(engine, tokenizer, ServingSettings(), "m")
    await ends(service, engine)
    assert await still_held(HELD) == []


@pytest.fixture
def model(tokenizer: ChatTokenizer) -> Model:
    def build(config: object, token: object) -> Service:
        return Service(ScriptedEngine(refusal=QueueFull("full", retry_after=1)), tokenizer, ServingSettings(), "m")

    model = Model({}, {}, build=build)
    model.load()
    return model


def tied_request() -> Request:
    """With what Truss puts into the state of each one: a function that refers to the request."""
    request = Connection().request()

    @contextmanager
    def watch_disconnect() -> Iterator[Awaitable[bool]]:
        yield request.is_disconnected()

    request.state.watch_disconnect = watch_disconnect
    return request


@pytest.mark.parametrize("route", ["predict", "chat_completions"])
@pytest.mark.usefixtures("sigterm", "uncollected")
async def test_a_request_that_truss_ties_to_itself_is_free_at_once(model: Model, route: str) -> None:
    request = tied_request()
    assert (await getattr(model, route)({"messages": HELLO} | MODEL[route], request)).status_code == 429
    held = weakref.ref(request)
    del request
    assert held() is None
