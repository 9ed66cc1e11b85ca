"""A caller who leaves takes the row along: it stops, its pages are free, the others go on."""

import asyncio

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.engine_counts import engine_counts, until
from tests.e2e.front import Front
from tests.e2e.server import Service

LONG = 1900  # tokens; nobody waits for so many


@pytest.fixture
async def idle(tiny: Service) -> dict[str, float]:
    return await until(tiny, lambda counts: counts["rows_running"] == 0 and counts["requests_waiting"] == 0)


async def test_a_stream_that_is_closed(async_client: AsyncOpenAI, tiny: Service, idle: dict[str, float]) -> None:
    stream = await async_client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Go on."}],
        max_tokens=LONG,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    assert (await engine_counts(tiny))["rows_running"] == 1
    await stream.close()
    after = await until(tiny, lambda counts: counts["rows_running"] == 0)
    assert after["generated_tokens"] - idle["generated_tokens"] < LONG
    assert after["pages_free"] == after["pages"]


async def test_a_caller_who_waits_for_the_whole_answer(
    async_client: AsyncOpenAI, tiny: Service, idle: dict[str, float]
) -> None:
    async def ask() -> None:
        await async_client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Go on."}],
            max_tokens=LONG,
            n=4,
            extra_body={"ignore_eos": True},
        )

    asked = asyncio.create_task(ask())
    await until(tiny, lambda counts: counts["rows_running"] == 4)
    asked.cancel()
    after = await until(tiny, lambda counts: counts["rows_running"] == 0)
    assert after["generated_tokens"] - idle["generated_tokens"] < 4 * LONG
    assert after["pages_free"] == after["pages"]


async def test_the_others_go_on(async_client: AsyncOpenAI, tiny: Service, idle: dict[str, float]) -> None:
    async def streamed(leave: bool) -> str:
        text = ""
        stream = await async_client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Go on."}],
            max_tokens=LONG if leave else 64,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async with stream:
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                if leave and text:
                    break
        return text

    alone = await streamed(leave=False)
    together = await asyncio.gather(*(streamed(leave=i % 2 == 0) for i in range(12)))
    assert together[1::2] == [alone] * 6
    after = await until(tiny, lambda counts: counts["rows_running"] == 0)
    assert after["pages_free"] == after["pages"]


async def test_a_client_that_gives_up_waiting(front: Front, tiny: Service, idle: dict[str, float]) -> None:
    """The connection is cut in the middle of a plain request, as a client's timeout does."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": LONG,
        "ignore_eos": True,
    }
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{front.url()}/v1/chat/completions", json=body, timeout=0.3)
    after = await until(tiny, lambda counts: counts["rows_running"] == 0)
    assert after["generated_tokens"] - idle["generated_tokens"] < LONG


async def test_prompts_that_cannot_fit_leave_nothing_behind(
    async_client: AsyncOpenAI, tiny: Service, idle: dict[str, float]
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await async_client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "word " * 3000}], stream=stream
            )
        assert refused.value.code == "context_length_exceeded"
    after = await engine_counts(tiny)
    assert (after["rows_running"], after["pages_free"]) == (0, after["pages"])
