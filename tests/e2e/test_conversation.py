"""What a client gets through the whole stack: transformers' own greedy answers, plain, streamed and side by side."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from transformers import AutoModelForCausalLM, AutoTokenizer

WORLD_SERIES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Who won the world series in 2020?"},
    {"role": "assistant", "content": "The Los Angeles Dodgers won the World Series in 2020."},
    {"role": "user", "content": "Where was it played?"},
]
PROMPTS = [
    "What is the capital of France?",
    "Count from one to ten.",
    "Write a haiku about rain.",
    "Translate 'good morning' into Spanish.",
    "Name three colours.",
    "Why is the sky blue?",
    "What is 7 times 8?",
    "Tell me about the Golden Gate Bridge.",
]
MODELS = ("tiny", "smollm2")
LENGTH = 24


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def joined(client: OpenAI, **body: Any) -> tuple[str, str | None]:
    """The streamed answer of choice 0, and why it ended."""
    text, reason = "", None
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


@pytest.fixture(scope="module")
def generated(demo_weights: Path) -> dict[str, str]:
    """What transformers' own greedy generate answers to each prompt."""
    tokenizer: Any = AutoTokenizer.from_pretrained(demo_weights)
    model: Any = AutoModelForCausalLM.from_pretrained(demo_weights, dtype=torch.float32)
    answers = {}
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(ask(prompt), add_generation_prompt=True, return_tensors="pt")["input_ids"]
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False)
        answers[prompt] = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    return answers


def test_the_conversation_of_the_guide(client: OpenAI) -> None:
    response = client.chat.completions.create(model="mistral-7b", messages=WORLD_SERIES, temperature=0, max_tokens=64)
    choice = response.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content is not None
    assert "World Series" in choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert response.model == "mistral-7b"
    assert response.usage is not None
    assert response.usage.prompt_tokens > 0 < response.usage.completion_tokens
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens


@pytest.mark.parametrize("model", MODELS)
def test_plain_and_streamed_are_the_same(client: OpenAI, model: str) -> None:
    for prompt in PROMPTS[:3]:
        body: dict[str, Any] = {"model": model, "messages": ask(prompt), "temperature": 0, "max_tokens": LENGTH}
        choice = client.chat.completions.create(**body).choices[0]
        assert joined(client, **body) == (choice.message.content, choice.finish_reason)


def test_one_at_a_time_equals_generate(client: OpenAI, generated: dict[str, str]) -> None:
    for prompt in PROMPTS[:4]:
        answer = client.chat.completions.create(model="smollm2", messages=ask(prompt), temperature=0, max_tokens=LENGTH)
        assert answer.choices[0].message.content == generated[prompt]


async def test_eight_at_once_equal_generate(async_client: AsyncOpenAI, generated: dict[str, str]) -> None:
    calls = (
        async_client.chat.completions.create(model="smollm2", messages=ask(prompt), temperature=0, max_tokens=LENGTH)
        for prompt in PROMPTS
    )
    answers = await asyncio.gather(*calls)
    assert {p: a.choices[0].message.content for p, a in zip(PROMPTS, answers, strict=True)} == generated


async def test_32_streams_at_once_do_not_mix(async_client: AsyncOpenAI) -> None:
    bodies: list[dict[str, Any]] = [
        {"model": "tiny", "messages": ask(f"Number {i}" * (1 + i % 5)), "temperature": 0, "max_tokens": 8 + i}
        for i in range(32)
    ]

    async def streamed(body: dict[str, Any]) -> str:
        stream = await async_client.chat.completions.create(**body, stream=True)
        return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    together = await asyncio.gather(*map(streamed, bodies))
    alone = [(await async_client.chat.completions.create(**body)).choices[0].message.content for body in bodies]
    assert together == alone
    assert len(set(alone)) > 16  # the prompts do lead to different answers


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_repeats_and_seeds_differ(client: OpenAI, model: str) -> None:
    def sampled(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=model, messages=ask("Say something."), max_tokens=12, seed=seed, temperature=1.5
        )
        return answer.choices[0].message.content

    assert sampled(7) == sampled(7)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_three_choices(client: OpenAI) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": ask("Say something."), "max_tokens": 12, "seed": 3}
    answer = client.chat.completions.create(**body, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage is not None and 3 <= answer.usage.completion_tokens <= 36
    singles = [client.chat.completions.create(**{**body, "seed": 3 + i}) for i in range(3)]
    assert texts == [single.choices[0].message.content for single in singles]
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**body, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stop_strings_at_every_split(client: OpenAI) -> None:
    """Every piece of a known answer as the stop string: cut before it, nothing of it leaked, streamed or not."""
    body: dict[str, Any] = {"model": "smollm2", "messages": ask(PROMPTS[0]), "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**body).choices[0].message.content or ""
    assert len(whole) > 12
    for start in range(1, 12):
        stop = whole[start : start + 5]
        expected = (whole[: whole.index(stop)], "stop")
        choice = client.chat.completions.create(**body, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason) == expected
        assert joined(client, **body, stop=["nowhere", stop]) == expected


def test_max_tokens_is_exact(client: OpenAI) -> None:
    for limit in (1, 2, 7):
        answer = client.chat.completions.create(
            model="smollm2", messages=ask(PROMPTS[1]), temperature=0, max_tokens=limit
        )
        assert answer.usage is not None
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (limit, "length")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("text", ["漢字かな交じり文", "👩🏽‍🚀🏳️‍🌈 ok", "naïve Ωμέγα"])
def test_characters_of_many_tokens_arrive_whole(client: OpenAI, model: str, text: str) -> None:
    """A schema with one answer makes the model write it, token by token, characters cut in the middle."""
    schema = {"type": "object", "properties": {"a": {"const": text}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    pieces = []
    for chunk in client.chat.completions.create(  # type: ignore[call-overload]
        model=model, messages=ask("Write it."), response_format=form, max_tokens=120, temperature=0, stream=True
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert text in "".join(pieces)
    assert "\ufffd" not in "".join(pieces)
