"""Nothing is kept of a request that has ended."""

import asyncio
import gc
import random
import threading

import psutil

from tests.engine.conftest import StartEngine, collect, make_model
from truss_model.engine.engine import Engine
from truss_model.engine.sampling_params import SamplingParams

MEGABYTE = 1 << 20


async def serve(engine: Engine, requests: int, rng: random.Random) -> None:
    """So many requests of every kind, 16 at a time; a fifth of them leaves at a random moment."""
    places = asyncio.Semaphore(16)

    async def one() -> None:
        prompt = [rng.randrange(1, 1024) for _ in range(rng.randrange(1, 60))]
        params = SamplingParams(
            max_tokens=rng.randrange(1, 12),
            temperature=rng.choice([0.0, 1.0]),
            top_p=rng.choice([1.0, 0.9]),
            frequency_penalty=rng.choice([0.0, 0.5]),
            top_logprobs=rng.choice([None, 3]),
        )
        leaves = rng.random() < 0.2
        async with places:
            generation = engine.submit(prompt, params, n=rng.choice([1, 1, 3]))
            if leaves:
                await generation.admitted()
                generation.cancel()
            await collect(generation)

    await asyncio.gather(*(one() for _ in range(requests)))


async def test_a_thousand_requests_leave_nothing_behind(start_engine: StartEngine) -> None:
    engine, rng = start_engine(make_model()), random.Random(0)
    await serve(engine, 300, rng)
    gc.collect()
    threads, before = threading.active_count(), psutil.Process().memory_info().rss
    await serve(engine, 1000, rng)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 20 * MEGABYTE
    assert threading.active_count() <= threads
    assert engine.stats().pages_free == engine.stats().pages_total
