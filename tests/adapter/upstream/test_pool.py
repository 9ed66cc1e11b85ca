"""Several servers of one model: which is asked, which instead when one fails, and what is seen of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from bridge_adapter.settings import AdapterSettings
from bridge_adapter.settings_file import check_settings
from bridge_adapter.upstream.health import Health
from bridge_adapter.upstream.retry_budget import RetryBudget
from tests.adapter.harness import Answered, Bridge, running_bridge
from tests.adapter.stub import Play, Request, Stub, Wire, line, running_stub, says

QUICK = {"retries": {"attempts": 1, "backoff": 0.0}}


def conversation(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Conversation {number}"}]}


@asynccontextmanager
async def bridge_over(
    plays: Mapping[str, Play],
    *,
    model: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    **targets: Any,
) -> AsyncIterator[tuple[Bridge, dict[str, Stub]]]:
    """`m` with an upstream for each play, or a model of its own if `models` has its name; `targets`: more of a row.

    No time passes for circuits and budgets, so that neither depends on how long the requests take.
    """
    async with AsyncExitStack() as stack:
        stubs = {name: await stack.enter_async_context(running_stub(play)) for name, play in plays.items()}
        rows = {
            "m": {
                "upstreams": [
                    {"name": n, "url": stubs[n].url, **targets.get(n, {})} for n in plays if n not in (models or {})
                ]
            }
        }
        rows["m"] |= QUICK | dict(model or {})
        for name, row in (models or {}).items():
            rows[name] = QUICK | {"url": stubs[name].url} | row
        tree = {"models": rows, "server": {"web": False}, "observe": {"access_log": "off"}}
        settings = msgspec.convert(tree, AdapterSettings)
        check_settings(settings)
        bridge = await stack.enter_async_context(running_bridge(settings))
        pool = bridge.state.router.by_name("m", None).pool
        pool.budget = RetryBudget(clock=lambda: 0.0)
        for upstream in pool.upstreams:
            upstream.health = Health(clock=lambda: 0.0)
        yield bridge, stubs


async def status(code: int, request: Request, wire: Wire) -> None:
    await wire.json({"error": {"message": "no"}}, status=code)


def refuses(code: int) -> Play:
    async def play(request: Request, wire: Wire) -> None:
        await status(code, request, wire)

    return play


async def resets(request: Request, wire: Wire) -> None:
    wire.reset()


async def test_a_conversation_stays_at_one_server_and_conversations_are_spread() -> None:
    async with bridge_over({"a": says("hi"), "b": says("hi"), "c": says("hi")}) as (bridge, stubs):
        for turn in range(2):
            for number in range(30):
                more = [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}][: 2 * turn]
                body = conversation(number)
                assert (await bridge.chat({"messages": body["messages"] + more})).status == 200
        asked = {name: Counter(r.json["messages"][0]["content"] for r in stub.requests) for name, stub in stubs.items()}
    assert all(len(counts) >= 4 for counts in asked.values())
    assert sum(len(counts) for counts in asked.values()) == 30
    assert all(count == 2 for counts in asked.values() for count in counts.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [resets, refuses(503), refuses(502), refuses(429), refuses(504)])
async def test_what_a_server_cannot_take_another_one_answers(fault: Play, stream: bool) -> None:
    async with bridge_over({"a": fault, "b": says("hi")}) as (bridge, stubs):
        answers = [await bridge.chat(conversation(number), stream=stream) for number in range(8)]
        assert [answer.status for answer in answers] == [200] * 8
        assert all(
            (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "hi" for answer in answers
        )
        assert len(stubs["b"].requests) == 8
        assert 0 < len(stubs["a"].requests) < 8 or fault is not resets


@pytest.mark.parametrize("code", [400, 401, 404, 500])
async def test_a_refusal_of_the_request_is_not_asked_of_another_server(code: int) -> None:
    async with bridge_over({"a": refuses(code), "b": refuses(code)}) as (bridge, stubs):
        assert (await bridge.chat()).status in (code, 502)
        assert sum(len(stub.requests) for stub in stubs.values()) == 1


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    async def breaks(request: Request, wire: Wire) -> None:
        await wire.start()
        await wire.piece(line(event="start") + line(event="delta", index=0, text="half"))
        wire.reset()

    async with bridge_over({"a": breaks, "b": breaks}) as (bridge, stubs):
        answer = await bridge.chat(stream=True)
        assert b"half" in answer.body and b"the connection before the end of its answer" in answer.body
        assert sum(len(stub.requests) for stub in stubs.values()) == 1


async def test_servers_of_a_lower_priority_are_asked_only_when_the_others_cannot() -> None:
    async with bridge_over({"near": says("hi"), "far": says("hi")}, far={"priority": 1}) as (bridge, stubs):
        for number in range(6):
            await bridge.chat(conversation(number))
        assert (len(stubs["near"].requests), len(stubs["far"].requests)) == (6, 0)
        stubs["near"].play = resets
        for number in range(6):
            assert (await bridge.chat(conversation(number))).status == 200
        assert len(stubs["far"].requests) == 6
        assert len(stubs["near"].requests) == 6 + 3  # after three failures in a row it is left alone


async def test_a_full_server_leaves_the_rest_to_the_others_and_a_full_model_is_told() -> None:
    begun, go = asyncio.Semaphore(0), asyncio.Event()

    async def waits(request: Request, wire: Wire) -> None:
        begun.release()
        await go.wait()
        await says("hi")(request, wire)

    limit = {"concurrency": 1}
    async with bridge_over({"a": waits, "b": waits}, a=limit, b=limit) as (bridge, _):
        two = [asyncio.create_task(bridge.chat(conversation(0))) for _ in range(2)]
        for _ in two:
            await begun.acquire()
        refused = await bridge.chat(conversation(0))
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "limit of 2 concurrent" in refused.json["error"]["message"]
        go.set()
        assert [(await task).status for task in two] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_answers_when_no_server_can_and_the_answer_says_so(stream: bool) -> None:
    plays = {"a": resets, "b": refuses(503), "spare": says("instead")}
    spare = {"spare": {"caps": {"max_tokens": 7}}}
    async with bridge_over(plays, model={"fallbacks": ["spare"]}, models=spare) as (bridge, stubs):
        answer = await bridge.chat(stream=stream)
        assert answer.headers["x-bridge-fallback"] == "spare"
        assert named(answer, stream) == {"spare"}
        assert stubs["spare"].requests[0].json["max_tokens"] == 7  # under its own policy


async def test_an_error_of_the_last_fallback_is_what_the_caller_is_told() -> None:
    plays = {"a": refuses(503), "spare": refuses(429)}
    async with bridge_over(plays, model={"fallbacks": ["spare"]}, models={"spare": {}}) as (bridge, _):
        assert (await bridge.chat()).status == 429


async def test_retries_do_not_multiply_a_fault() -> None:
    async with bridge_over({"a": refuses(503), "b": refuses(503)}) as (bridge, stubs):
        answers = [await bridge.chat(conversation(number)) for number in range(100)]
        assert {answer.status for answer in answers} == {503}
        asked = sum(len(stub.requests) for stub in stubs.values())
    assert 100 < asked <= 120


async def test_the_load_and_the_health_of_each_server_are_metrics() -> None:
    async with bridge_over({"a": resets, "b": says("hi")}) as (bridge, _):
        for number in range(12):
            await bridge.chat(conversation(number))
        text = (await bridge.get("/metrics")).body.decode()
    values = dict(sample.rsplit(" ", 1) for sample in text.splitlines() if not sample.startswith("#"))
    assert values['bridge_upstream_in_flight{model="m",upstream="a"}'] == "0.0"
    assert values['bridge_upstream_available{model="m",upstream="a"}'] == "0.0"
    assert values['bridge_upstream_available{model="m",upstream="b"}'] == "1.0"
    assert values['bridge_upstream_faults_total{model="m",upstream="a"}'] == "3.0"
    assert values['bridge_upstream_answers_total{model="m",upstream="b"}'] == "12.0"


def named(answer: Answered, stream: bool) -> set[str]:
    return {chunk["model"] for chunk in answer.chunks} if stream else {answer.json["model"]}
