"""Log probabilities of the prompt: echo with logprobs of /v1/completions, as lm-eval reads it, and prompt_logprobs."""

import json
from typing import Any

import pytest
from openai.types import Completion

from tests.adapter.expect import error
from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Request, Stub, Wire, answer, line, ndjson, replies


def entry(token: str, token_id: int, logprob: float | None, rank: int | None, best: str = "") -> dict[str, Any]:
    tops = [{"token": best, "id": 9, "bytes": list(best.encode()), "logprob": -0.5}] if best else []
    data = [] if token == "<s>" else list(token.encode())
    return {"token": token, "id": token_id, "bytes": data, "logprob": logprob, "rank": rank, "top_logprobs": tops}


PROMPT = [entry("<s>", 1, None, None), entry("On", 5, -2.0, 4, best="The"), entry("ce", 6, -0.5, 1, best="ce")]
SAMPLED = {
    "token": " a",
    "logprob": -1.0,
    "bytes": None,
    "top_logprobs": [{"token": " a", "logprob": -1.0, "bytes": None}],
}
VLLM = [
    None,
    {
        "5": {"logprob": -2.0, "rank": 4, "decoded_token": "On"},
        "9": {"logprob": -0.5, "rank": 1, "decoded_token": "The"},
    },
    {
        "6": {"logprob": -0.5, "rank": 1, "decoded_token": "ce"},
        "9": {"logprob": -0.5, "rank": 1, "decoded_token": "ce"},
    },
]


async def scores(request: Request, wire: Wire) -> None:
    """A Truss that returns the prompt's log probabilities, and one token unless none is wanted."""
    body = request.json
    if body.get("stream"):
        await wire.stream(
            line(event="start", prompt_tokens=3)
            + line(event="prompt", prompt_logprobs=PROMPT)
            + line(event="delta", index=0, text=" a", logprobs=[SAMPLED])
            + line(event="finish", index=0, reason="length")
            + line(event="done")
        )
        return
    text, probs = ("", []) if body["max_tokens"] == 0 else (" a", [SAMPLED])
    await wire.json(answer(text, logprobs=probs, finish_reason="length") | {"prompt_logprobs": PROMPT})


async def complete(bridge: Bridge, **fields: Any) -> Any:
    answered = await bridge.post("/v1/completions", {"model": "m", "prompt": "Once", "max_tokens": 1, **fields})
    assert answered.status == 200, answered.body
    return answered


@pytest.mark.parametrize("prompt", ["Once", [1, 5, 6]], ids=["text", "token ids"])
async def test_an_echo_has_the_log_probabilities_of_prompt_and_answer(bridge: Bridge, stub: Stub, prompt: Any) -> None:
    stub.play = scores
    answered = await complete(bridge, prompt=prompt, echo=True, logprobs=1, temperature=0)
    assert stub.last == {
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 1,
        "prompt_logprobs": 1,
    }
    (choice,) = answered.json["choices"]
    assert choice["text"] == "Once a"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "On", "ce", " a"],
        "token_logprobs": [None, -2.0, -0.5, -1.0],
        "top_logprobs": [None, {"The": -0.5}, {"ce": -0.5}, {" a": -1.0}],
        "text_offset": [0, 0, 2, 4],
    }


async def test_several_prompts_have_their_own(bridge: Bridge, stub: Stub) -> None:
    async def play(request: Request, wire: Wire) -> None:
        ids = request.json["prompt"]
        entries = [entry(chr(token), token, None if i == 0 else -float(token), 1) for i, token in enumerate(ids)]
        await wire.json(answer("") | {"prompt_logprobs": entries})

    stub.play = play
    answered = await complete(bridge, prompt=[[97, 98], [99, 100]], echo=True, logprobs=1, max_tokens=0)
    assert [(one["text"], one["logprobs"]["token_logprobs"]) for one in answered.json["choices"]] == [
        ("ab", [None, -98.0]),
        ("cd", [None, -100.0]),
    ]


async def test_an_echo_of_token_ids_is_their_text(bridge: Bridge, stub: Stub) -> None:
    stub.play = scores
    answered = await complete(bridge, prompt=[1, 5, 6], echo=True)
    assert stub.last["prompt_logprobs"] == 0
    (choice,) = answered.json["choices"]
    assert (choice["text"], choice["logprobs"]) == ("Once a", None)
    assert "prompt_logprobs" not in choice


async def test_a_streamed_echo_comes_before_the_first_piece(bridge: Bridge, stub: Stub) -> None:
    stub.play = scores
    answered = await complete(bridge, prompt=[1, 5, 6], echo=True, logprobs=1, stream=True)
    first, second, last = (chunk["choices"][0] for chunk in answered.chunks)
    assert (first["text"], first["logprobs"]["token_logprobs"]) == ("Once", [None, -2.0, -0.5])
    assert (second["text"], second["logprobs"]["text_offset"]) == (" a", [4])
    assert last["finish_reason"] == "length"


async def test_no_token_need_be_generated(bridge: Bridge, stub: Stub) -> None:
    stub.play = scores
    answered = await complete(bridge, prompt_logprobs=1, max_tokens=0)
    assert (stub.last["max_tokens"], stub.last["prompt_logprobs"]) == (0, 1)
    (choice,) = answered.json["choices"]
    assert choice == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length", "prompt_logprobs": VLLM}
    chat = await bridge.chat(prompt_logprobs=1, max_tokens=0)
    assert chat.json["prompt_logprobs"] == VLLM
    assert chat.json["choices"][0]["message"]["content"] == ""


async def test_a_truss_that_only_returns_text_cannot(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, model={"dialect": "text"})) as bridge:
        status, fields = error(await bridge.chat(prompt_logprobs=1))
    assert (status, fields["param"], fields["code"]) == (400, "prompt_logprobs", "unsupported_parameter")


async def test_a_server_of_openais_api_is_asked_as_vllm_is(stub: Stub) -> None:
    message = {"role": "assistant", "content": ""}
    whole = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}}
    async with running_bridge(settings_for(stub.url, model={"dialect": "openai"})) as bridge:
        stub.play = replies(whole | {"prompt_logprobs": VLLM})
        answered = await bridge.chat(prompt_logprobs=1, max_tokens=1)
        assert stub.last["prompt_logprobs"] == 1
        assert answered.json["prompt_logprobs"] == VLLM
        stub.play = replies(whole)
        status, fields = error(await bridge.chat(prompt_logprobs=1))
        assert (status, fields["param"], fields["code"]) == (400, "prompt_logprobs", "unsupported_parameter")
        for wrong in ([{}], [{"x": {"logprob": -1}}], [{"5": {"rank": 1}}], {"5": 1}, "x"):
            stub.play = replies(whole | {"prompt_logprobs": wrong})
            assert (await bridge.chat(prompt_logprobs=1)).status == 502
        stub.play = replies({"error": {"message": "prompt_logprobs is unknown", "param": "prompt_logprobs"}}, 400)
        status, fields = error(await bridge.chat(prompt_logprobs=1))
        assert (status, fields["message"]) == (400, "prompt_logprobs is unknown")


async def test_what_lm_eval_computes_of_an_answer(bridge: Bridge, stub: Stub) -> None:
    """`local-completions` sends context and continuation as ids and reads all tokens but the last, a generated one."""
    stub.play = scores
    answered = await bridge.openai.completions.create(
        model="m", prompt=[1, 5, 6], echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234
    )
    assert isinstance(answered, Completion)
    probs = answered.choices[0].logprobs
    assert probs and probs.token_logprobs and probs.top_logprobs and probs.tokens
    context = 1
    assert sum(probs.token_logprobs[context:-1]) == -2.5
    tokens = zip(probs.tokens[context:-1], probs.top_logprobs[context:-1], strict=True)
    assert [max(tops, key=tops.__getitem__) == token for token, tops in tokens] == [False, True]


async def test_a_stream_without_log_probabilities_has_no_such_line(bridge: Bridge, stub: Stub) -> None:
    assert b"prompt_logprobs" not in ndjson("x")
    answered = await complete(bridge, echo=True, stream=True)
    assert json.loads(answered.data[0])["choices"][0]["text"] == "Once"
