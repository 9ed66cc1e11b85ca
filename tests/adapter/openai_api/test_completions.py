"""/v1/completions: prompts of every form, echo, best_of, logprobs, streamed and not."""

from typing import Any

import pytest
from openai.types import Completion

from bridge_adapter.openai_api.operations import OPERATIONS
from tests.adapter.harness import Answered, Bridge
from tests.adapter.stub import Request, Stub, Wire, answer, line, replies, sends, usage


async def complete(bridge: Bridge, **fields: Any) -> Answered:
    return await bridge.post("/v1/completions", {"model": "m", "prompt": "Once", **fields})


def choice(text: str, reason: str | None = "stop", index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def choices(answered: Answered) -> list[Any]:
    assert answered.status == 200, answered.body
    Completion.model_validate(answered.json, strict=True)
    return list(answered.json["choices"])


def pieces(answered: Answered) -> list[Any]:
    # The client's own type of a chunk is the whole answer's, which wants a reason in every choice.
    return [choice for chunk in answered.chunks for choice in chunk["choices"]]


async def test_a_plain_completion(bridge: Bridge, stub: Stub) -> None:
    answered = await complete(bridge)
    assert choices(answered) == [choice("Hello, world")]
    assert answered.json["object"] == "text_completion"
    assert answered.json["id"].startswith("cmpl-")
    assert answered.json["usage"]["completion_tokens"] == 3
    assert stub.last == {"prompt": "Once", "max_tokens": 16}


async def test_a_streamed_completion(bridge: Bridge) -> None:
    answered = await complete(bridge, stream=True, stream_options={"include_usage": True})
    said = [choice("Hello", None), choice(", ", None), choice("world", None), choice("")]
    assert pieces(answered) == said
    assert answered.chunks[-1]["usage"]["total_tokens"] == 8
    assert [chunk["usage"] for chunk in answered.chunks[:-1]] == [None] * 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
async def test_prompts(bridge: Bridge, stub: Stub, stream: bool, prompt: Any, sent: list[Any]) -> None:
    async def play(request: Request, wire: Wire) -> None:
        text = str(request.json["prompt"])
        if not stream:
            return await wire.json(answer(text + "0", text + "1"))
        deltas = b"".join(line(event="delta", index=i, text=f"{text}{i}") for i in range(2))
        ends = b"".join(line(event="finish", index=i, reason="length") for i in range(2))
        await wire.stream(line(event="start") + deltas + ends + line(event="done", usage=usage()))

    stub.play = play
    answered = await complete(bridge, prompt=prompt, n=2, stream=stream)
    texts: dict[int, str] = {}
    for item in pieces(answered) if stream else choices(answered):
        texts[item["index"]] = texts.get(item["index"], "") + item["text"]
    assert texts == {2 * k + i: f"{prompt}{i}" for k, prompt in enumerate(sent) for i in range(2)}
    assert sorted(str(request.json["prompt"]) for request in stub.requests) == sorted(map(str, sent))
    if not stream:
        assert answered.json["usage"]["total_tokens"] == 8 * len(sent)


async def test_echo(bridge: Bridge) -> None:
    assert choices(await complete(bridge, echo=True)) == [choice("OnceHello, world")]
    streamed = pieces(await complete(bridge, echo=True, stream=True))
    assert streamed[:2] == [choice("Once", None), choice("Hello", None)]


def entry(token: str, logprob: float) -> dict[str, Any]:
    top = {"token": token, "logprob": logprob, "bytes": None}
    return {**top, "top_logprobs": [top]}


async def test_logprobs(bridge: Bridge, stub: Stub) -> None:
    entries = [entry("He", -0.5), entry("llo", -1.0)]
    stub.play = replies(answer("Hello", logprobs=entries))
    shown = choices(await complete(bridge, logprobs=1))[0]["logprobs"]
    assert shown == {
        "tokens": ["He", "llo"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"He": -0.5}, {"llo": -1.0}],
        "text_offset": [0, 2],
    }
    assert (stub.last["logprobs"], stub.last["top_logprobs"]) == (True, 1)
    deltas = [line(event="delta", index=0, text=item["token"], logprobs=[item]) for item in entries]
    end = line(event="finish", index=0, reason="stop") + line(event="done", usage=usage())
    stub.play = sends(line(event="start") + b"".join(deltas) + end)
    streamed = pieces(await complete(bridge, logprobs=1, stream=True))
    assert [item["logprobs"]["text_offset"] for item in streamed[:2]] == [[0], [2]]


async def test_best_of_shows_the_likeliest(bridge: Bridge, stub: Stub) -> None:
    made = answer("a", "b", "c")
    for item, logprob in zip(made["choices"], (-3.0, -1.0, -2.0), strict=True):
        item["logprobs"] = [entry("x", logprob)]
    stub.play = replies(made)
    assert choices(await complete(bridge, best_of=3, n=2)) == [choice("b"), choice("c", index=1)]
    assert (stub.last["n"], stub.last["logprobs"]) == (3, True)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        ({"prompt": [[1], [-1]]}, "prompt[1][0]", "integer_below_min_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens", "integer_below_min_value"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "integer_above_max_value"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "invalid_parameter_combination"),
        ({"best_of": 1, "n": 2}, "best_of", None),
        ({"best_of": 2, "stream": True}, "best_of", None),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"stream_options": {}}, "stream_options", "invalid_parameter_combination"),
    ],
)
async def test_refusals(bridge: Bridge, stub: Stub, fields: dict[str, Any], param: str, code: str | None) -> None:
    answered = await complete(bridge, **fields)
    assert answered.status == 400
    assert (answered.json["error"]["param"], answered.json["error"]["code"]) == (param, code)
    assert stub.requests == []


async def test_running_usage_and_noise(bridge: Bridge) -> None:
    options = {"continuous_usage_stats": True, "include_obfuscation": True}
    chunks = (await complete(bridge, stream=True, stream_options=options)).chunks
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]
    assert all("obfuscation" in chunk for chunk in chunks)


async def test_the_official_client(bridge: Bridge) -> None:
    plain = await bridge.openai.completions.create(model="m", prompt="Once")
    assert plain.choices[0].text == "Hello, world"
    stream = await bridge.openai.completions.create(model="m", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello, world"


def test_the_documented_fields_are_the_accepted_ones() -> None:
    completions = OPERATIONS["/completions"]
    assert set(completions.schema["properties"]) == completions.known
