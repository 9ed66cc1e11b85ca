"""Random requests of every kind, too many for the pages, some of which are cancelled: each gets what it gets alone."""

import asyncio
import random

import pytest

from tests.engine.conftest import Answer, collect
from tests.engine.test_ahead import Engines, EvenTokens, engines, same
from truss_model.engine.engine import Engine
from truss_model.engine.sampling_params import SamplingParams

__all__ = ["engines"]
PAGE_BYTES = 16 * 2 * 2 * 2 * 16 * 4
Asked = tuple[list[int], SamplingParams, int]


def asked(rng: random.Random) -> Asked:
    def maybe(value: float, otherwise: float) -> float:
        return value if rng.random() < 0.4 else otherwise

    params = SamplingParams(
        max_tokens=rng.randrange(1, 60),
        temperature=maybe(0.0, rng.uniform(0.5, 1.5)),
        top_p=maybe(0.9, 1.0),
        top_k=int(maybe(30, 0)),
        min_p=maybe(0.05, 0.0),
        presence_penalty=maybe(1.0, 0.0),
        frequency_penalty=maybe(0.7, 0.0),
        repetition_penalty=maybe(1.3, 1.0),
        logit_bias={rng.randrange(1024): 6.0} if rng.random() < 0.3 else {},
        min_tokens=int(maybe(5, 0)),
        top_logprobs=2 if rng.random() < 0.2 else None,
        prompt_logprobs=1 if rng.random() < 0.2 else None,
        constraint=EvenTokens if rng.random() < 0.2 else None,
        seed=rng.randrange(1000),
    )
    return [rng.randrange(1024) for _ in range(rng.randrange(1, 12))], params, rng.choice([1, 1, 2, 3])


async def cancelled_early(engine: Engine, prompt: list[int], params: SamplingParams) -> None:
    generation = engine.submit(prompt, params)
    async for _ in generation.outputs():
        generation.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_random_requests_get_what_they_get_alone(engines: Engines, seed: int) -> None:
    rng = random.Random(seed)
    eos = frozenset(range(0, 1024, 400))
    requests = [asked(rng) for _ in range(14)]
    in_turn = engines.start(False, eos=eos)
    wanted: list[list[Answer]] = [await collect(in_turn.submit(prompt, params, n=n)) for prompt, params, n in requests]
    ahead = engines.start(True, eos=eos, kv_cache_bytes=5 * PAGE_BYTES, max_model_len=80)
    got = await asyncio.gather(
        *(collect(ahead.submit(prompt, params, n=n)) for prompt, params, n in requests),
        *(cancelled_early(ahead, *asked(rng)[:2]) for _ in range(5)),
    )
    for alone, together in zip(wanted, got, strict=False):
        assert together is not None and [*map(same, alone, together)] == [True] * len(alone)
    assert ahead.stats().preemptions > 0
    assert engines.recorder.replays > 0
    assert len(engines.attentions[-1].mixed) > 5
