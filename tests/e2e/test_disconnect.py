"""A caller who leaves takes the row along: it stops, its pages are free, the others go on."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.engine_counts import engine_counts, until
from tests.e2e.front import Front
from tests.e2e.server import Service

LONG = 1900  # tokens; nobody waits for so many


async def idle(truss: Service) -> dict[str, float]:
    return await until(truss, lambda counts: counts["rows_running"] == 0 and counts["requests_waiting"] == 0)


# The model that takes long for so many tokens: none of them ends before its caller leaves.


async def test_a_stream_that_is_closed(async_client: AsyncOpenAI, smollm2: Service) -> None:
    before = await idle(smollm2)
    stream = await async_client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Go on."}],
        max_tokens=LONG,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    assert (await engine_counts(smollm2))["rows_running"] == 1
    await stream.close()
    after = await idle(smollm2)
    assert after["generated_tokens"] - before["generated_tokens"] < LONG
    assert after["pages_free"] == after["pages"]


async def test_a_caller_who_waits_for_the_whole_answer(async_client: AsyncOpenAI, smollm2: Service) -> None:
    before = await idle(smollm2)

    async def ask() -> None:
        await async_client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Go on."}],
            max_tokens=LONG,
            n=4,
            extra_body={"ignore_eos": True},
        )

    asked = asyncio.create_task(ask())
    await until(smollm2, lambda counts: counts["rows_running"] == 4)
    asked.cancel()
    after = await idle(smollm2)
    assert after["generated_tokens"] - before["generated_tokens"] < 4 * LONG
    assert after["pages_free"] == after["pages"]


async def test_the_others_go_on(async_client: AsyncOpenAI, tiny: Service) -> None:
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
    after = await idle(tiny)
    assert after["pages_free"] == after["pages"]


async def test_a_client_that_gives_up_waiting(front: Front, smollm2: Service) -> None:
    """The connection is closed in the middle of a plain request, as a client's timeout does."""
    before = await idle(smollm2)
    messages = [{"role": "user", "content": "Go on."}]
    body = json.dumps({"model": "smollm2", "messages": messages, "max_tokens": LONG, "ignore_eos": True}).encode()
    host, _, port = front.url("smollm2").removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await until(smollm2, lambda counts: counts["rows_running"] == 1)
    writer.close()
    after = await idle(smollm2)
    assert 0 < after["generated_tokens"] - before["generated_tokens"] < LONG
    assert after["pages_free"] == after["pages"]


async def test_prompts_that_cannot_fit_leave_nothing_behind(async_client: AsyncOpenAI, tiny: Service) -> None:
    await idle(tiny)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await async_client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "word " * 3000}], stream=stream
            )
        assert refused.value.code == "context_length_exceeded"
    after = await engine_counts(tiny)
    assert (after["rows_running"], after["pages_free"]) == (0, after["pages"])
