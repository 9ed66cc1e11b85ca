"""Greedy tokens equal plain transformers `generate`, whatever happens to batches, chunks, pages and prefixes."""

import asyncio
import random

import pytest

from tests.engine.conftest import StartEngine, collect, greedy, make_model, reference
from truss_model.engine.execution.cpu.build import kernels
from truss_model.engine.execution.limits import kv_bytes_per_token
from truss_model.engine.sampling_params import SamplingParams

TOKENS = 24


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    lengths = [1, 2, 15, 16, 17, 33, 64, 90]
    return [[rng.randrange(1, 1024) for _ in range(lengths[i % len(lengths)])] for i in range(count)]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize(("family", "window"), [("mistral", None), ("mistral", 32), ("llama", None)])
async def test_rows_join_and_leave(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch, kernels: bool, family: str, window: int | None
) -> None:
    if not kernels:
        monkeypatch.setenv("TRUSS_MODEL_CPU_KERNELS", "0")
    plain = make_model(window, family)
    asked = prompts(8)
    engine = start_engine(make_model(window, family), max_rows=5)

    async def one(prompt: list[int], tokens: int) -> list[int]:
        return await greedy(engine, prompt, tokens)

    lengths = [TOKENS, 3, TOKENS, 9, 1, TOKENS, 17, TOKENS]
    got = await asyncio.gather(*(one(prompt, n) for prompt, n in zip(asked, lengths, strict=True)))
    assert got == [reference(plain, prompt, n) for prompt, n in zip(asked, lengths, strict=True)]


async def test_every_chunk_size(start_engine: StartEngine) -> None:
    plain, prompt = make_model(32), prompts(8)[7]
    expected = reference(plain, prompt, 4)
    for chunk in range(1, 65):
        engine = start_engine(make_model(32), token_budget=chunk, max_rows=1, kv_cache_bytes=1 << 20)
        assert await greedy(engine, prompt, 4) == expected, chunk
        assert engine.stats().steps >= len(prompt) // chunk
        engine.stop()


async def test_preempted_rows_resume_where_they_were(start_engine: StartEngine) -> None:
    plain, asked = make_model(), prompts(8)[4:]
    pages = 12
    size = kv_bytes_per_token(plain) * 16 * pages
    engine = start_engine(make_model(), kv_cache_bytes=size, max_model_len=160)
    got = await asyncio.gather(*(greedy(engine, prompt, 40) for prompt in asked))
    assert engine.stats().preemptions > 0
    assert got == [reference(plain, prompt, 40) for prompt in asked]


@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("shared", [5, 16, 40, 64, 89, 90])
async def test_prefix_hits_change_nothing(start_engine: StartEngine, window: int | None, shared: int) -> None:
    plain, first = make_model(window), prompts(8)[7]
    second = first[:shared] + [7] * (90 - shared)
    engine = start_engine(make_model(window))
    assert await greedy(engine, first, TOKENS) == reference(plain, first, TOKENS)
    generation = engine.submit(second, SamplingParams(max_tokens=TOKENS, temperature=0.0))
    assert (await collect(generation))[0].tokens == reference(plain, second, TOKENS)
    assert generation.cached_tokens == min(shared, 89)


async def test_prefixes_can_be_switched_off(start_engine: StartEngine) -> None:
    plain, prompt = make_model(), prompts(8)[7]
    engine = start_engine(make_model(), prefix_caching=False)
    for _ in range(2):
        generation = engine.submit(prompt, SamplingParams(max_tokens=4, temperature=0.0), n=2)
        assert [answer.tokens for answer in await collect(generation)] == [reference(plain, prompt, 4)] * 2
        assert generation.cached_tokens == 0


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
async def test_rows_of_one_request_share_their_prompt(start_engine: StartEngine, length: int) -> None:
    plain, prompt = make_model(), prompts(8)[7][:length]
    engine = start_engine(make_model())
    answers = await collect(engine.submit(prompt, SamplingParams(max_tokens=TOKENS, temperature=0.0), n=5))
    assert [answer.tokens for answer in answers] == [reference(plain, prompt, TOKENS)] * 5
    assert engine.stats().prefill_tokens <= length + 4


async def test_conversation_computes_only_what_is_new(start_engine: StartEngine) -> None:
    engine, rng = start_engine(make_model()), random.Random(3)
    history: list[int] = []
    new = 0
    for _ in range(10):
        question = [rng.randrange(1, 1024) for _ in range(20)]
        history += question
        new += len(question)
        history += await greedy(engine, history, 12)
    assert engine.stats().prefill_tokens <= 1.2 * new


def test_the_kernels_are_there() -> None:
    assert kernels() is not None, "the CPU kernels must build where the tests run: is there a C compiler?"
