"""Steps with prompts in them by recordings: transformers' tokens, and eager steps where no recording fits."""

import asyncio
from itertools import pairwise

import pytest
import torch

from tests.engine.conftest import ENDLESS, collect, greedy, make_model, reference
from tests.engine.test_ahead import Engines, engines
from truss_model.engine.engine import Engine
from truss_model.engine.execution.limits import limits
from truss_model.engine.execution.mixed_fields import MOST_PROMPTS
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings

__all__ = ["engines"]


async def answers(engine: Engine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Beside a row that decodes all the time."""
    endless = engine.submit([3, 4], SamplingParams(max_tokens=ENDLESS, temperature=0.0, ignore_eos=True))
    stream = endless.outputs()
    await anext(stream)
    made = await asyncio.gather(*(greedy(engine, prompt, tokens) for prompt in prompts))
    endless.cancel()
    return made


def text(tokens: int, seed: int) -> list[int]:
    return [(seed + 37 * at * at) % 1024 for at in range(tokens)]


def row_of(prompt: list[int], pages: list[int]) -> Row:
    params = SamplingParams(temperature=0.0)
    return Row(Generation(len(prompt), 1, lambda *_: None), 0, prompt, len(prompt), params, 0, pages=pages)


def make_runner(engines: Engines, **settings: int) -> ModelRunner:
    chosen = EngineSettings(kv_cache_bytes=8 << 20, **settings)  # type: ignore[arg-type]
    model = make_model()
    runner = ModelRunner(model, limits(model, chosen), frozenset(), chosen, engines.ahead)
    runner.record()
    engines.attentions[0].eager.clear()
    return runner


@pytest.mark.parametrize("window", [None, 9])
async def test_prompts_whole_and_in_chunks_beside_rows_that_decode(engines: Engines, window: int | None) -> None:
    prompts = [text(count, count) for count in (1, 2, 14, 15, 16, 17, 40, 150)]
    engine = engines.start(True, window=window, token_budget=32)
    assert await answers(engine, prompts, 6) == [reference(make_model(window), prompt, 6) for prompt in prompts]
    (noted,) = engines.attentions
    assert noted.eager == []
    assert {tokens for tokens, _ in noted.mixed} == {16, 32}


async def test_rows_of_one_prompt_and_prompts_that_were_there_before(engines: Engines) -> None:
    """Pages are shared, and the last one of what is shared is copied, before the recorded forward reads it."""
    engine = engines.start(True)
    prompt = text(40, 1)
    params = SamplingParams(max_tokens=5, temperature=0.0)
    for asked in (prompt, [*prompt, 7, 8], [*prompt[:37], 9]):
        rows = await collect(engine.submit(asked, params, n=3))
        assert [row.tokens for row in rows] == [reference(make_model(), asked, 5)] * 3
    assert engine.stats().prefill_tokens < 60
    assert engines.attentions[0].eager == []


async def test_few_rows_that_decode_have_recordings_of_their_own(engines: Engines) -> None:
    engine = engines.start(True, max_rows=20)
    for count in (3, 12):
        running = [engine.submit([5, at], SamplingParams(max_tokens=ENDLESS, temperature=0.0)) for at in range(count)]
        await asyncio.gather(*(anext(generation.outputs()) for generation in running))
        noted = engines.attentions[0]
        noted.recorded.clear()
        assert await greedy(engine, text(15, count), 4) == reference(make_model(), text(15, count), 4)
        assert {decodes for _, decodes in noted.mixed} == {8 if count == 3 else 19}
        for generation in running:
            generation.cancel()


async def test_steps_of_more_tokens_than_the_largest_recording_are_eager(engines: Engines) -> None:
    engine = engines.start(True, token_budget=1000)
    for count in (600, 500):
        assert await greedy(engine, text(count, count), 3) == reference(make_model(), text(count, count), 3)
    noted = engines.attentions[0]
    assert noted.eager == [(600, 0)]
    assert [tokens for tokens, _ in noted.mixed] == [512]


def test_steps_of_more_prompts_than_a_recording_has_are_eager(engines: Engines) -> None:
    runner = make_runner(engines, max_rows=20)
    noted = engines.attentions[0]
    for count in (MOST_PROMPTS, MOST_PROMPTS + 1):
        noted.eager.clear()
        prompts = [text(3, at) for at in range(count)]
        chunks = [Chunk(row_of(prompt, [page]), 0, 3, samples=True) for page, prompt in enumerate(prompts)]
        tokens = runner.step(StepPlan(chunks)).tokens
        assert tokens == [reference(make_model(), prompt, 1)[0] for prompt in prompts]
        assert bool(noted.eager) == (count > MOST_PROMPTS)


@pytest.mark.parametrize(("cuts", "eager"), [((0, 100, 690, 700), [(590, 0)]), ((0, 100, 200, 210), [])])
@torch.inference_mode()
def test_pages_that_any_step_adds_are_known_to_later_recorded_ones(
    engines: Engines, cuts: tuple[int, ...], eager: list[tuple[int, int]]
) -> None:
    runner = make_runner(engines, max_rows=4, token_budget=700)
    row = row_of(text(cuts[-1], 7), [])
    for begin, end in pairwise(cuts):
        row.pages += [60 - page for page in range(len(row.pages), -(-end // 16))]
        logits, _ = runner.forward(StepPlan([Chunk(row, begin, end - begin, samples=True)]))
    wanted = make_model()(torch.tensor([row.tokens])).logits[0, -1:]
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
    assert engines.attentions[0].eager == eager


async def test_steps_that_score_a_prompt_are_eager(engines: Engines) -> None:
    engine = engines.start(True)
    params = SamplingParams(max_tokens=3, temperature=0.0, prompt_logprobs=0)
    (answer,) = await collect(engine.submit(text(20, 3), params))
    assert answer.tokens == reference(make_model(), text(20, 3), 3)
    noted = engines.attentions[0]
    assert noted.eager == [(20, 0)]
    assert noted.recorded == [(1, 1)] * 2
