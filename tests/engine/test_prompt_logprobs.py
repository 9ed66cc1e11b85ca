"""Log probabilities of prompts against a plain forward of transformers, whatever the chunks, the cache and the load."""

import asyncio
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.conftest import VOCAB, StartEngine, collect, greedy, make_model
from truss_model.engine.engine import Engine
from truss_model.engine.generation import Generation, PromptScore
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.scheduler import SCORED_PER_STEP

ONLY_SCORES = SamplingParams(max_tokens=0, prompt_logprobs=3)


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference_logprobs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[len(ids) - 1, vocab]: row i is the distribution of token i + 1."""
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), -1)


def check(scores: list[PromptScore], ids: list[int], top: int) -> None:
    expected = reference_logprobs(make_model(), ids)
    assert len(scores) == len(ids) - 1
    for score, row, token in zip(scores, expected, ids[1:], strict=True):
        assert score.logprob == pytest.approx(float(row[token]), abs=1e-4)
        better, close = int((row > row[token] + 1e-4).sum()), int((row > row[token] - 1e-4).sum())
        assert better < score.rank <= close
        values, _ = row.topk(max(top, 1))
        assert [logprob for _, logprob in score.top] == pytest.approx(values.tolist()[:top], abs=1e-4)
        assert [float(row[id_]) for id_, _ in score.top] == pytest.approx(values.tolist()[:top], abs=1e-4)


async def scores_of(engine: Engine, ids: list[int], params: SamplingParams = ONLY_SCORES, n: int = 1) -> Generation:
    generation = engine.submit(ids, params, n=n)
    answers = await collect(generation)
    assert [len(answer.tokens) for answer in answers] == [params.max_tokens] * n
    assert {answer.finish_reason for answer in answers} == {"length"}
    return generation


@pytest.mark.parametrize("length", [1, 2, 16, SCORED_PER_STEP + 1, 300])
async def test_they_are_those_of_a_plain_forward(start_engine: StartEngine, length: int) -> None:
    ids = prompt(length)
    check((await scores_of(start_engine(make_model()), ids)).prompt_scores, ids, 3)


async def test_nothing_is_told_of_a_token_that_nobody_wanted(start_engine: StartEngine) -> None:
    params = SamplingParams(max_tokens=0, prompt_logprobs=1, top_logprobs=2)
    [answer] = await collect(start_engine(make_model()).submit(prompt(20), params))
    assert (answer.tokens, answer.logprobs, answer.finish_reason) == ([], [], "length")


async def test_the_logits_of_a_whole_prompt_are_never_in_memory_at_once(start_engine: StartEngine) -> None:
    widest = 0
    model = make_model()
    head = model.lm_head.forward

    def measured(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal widest
        logits: torch.Tensor = head(hidden)
        widest = max(widest, logits.shape[-2])
        return logits

    class Measured(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return measured(hidden)

    model.lm_head = Measured()
    engine = start_engine(model, max_rows=4)
    await asyncio.gather(*(scores_of(engine, prompt(300, seed)) for seed in range(3)))
    assert SCORED_PER_STEP <= widest <= SCORED_PER_STEP + 4


async def test_a_cached_prompt_is_computed_again(start_engine: StartEngine) -> None:
    ids, engine = prompt(100), start_engine(make_model())
    tokens = await greedy(engine, ids, 4)
    again = await scores_of(engine, ids)
    assert again.cached_tokens == 0
    check(again.prompt_scores, ids, 3)
    assert await greedy(engine, ids, 4) == tokens
    assert engine.stats().cached_tokens > 90  # and stays in the cache for others


async def test_rows_of_a_request_share_them_and_the_answer_follows(start_engine: StartEngine) -> None:
    ids, engine = prompt(40), start_engine(make_model())
    params = SamplingParams(max_tokens=5, temperature=0.0, prompt_logprobs=0, top_logprobs=1)
    generation = await scores_of(engine, ids, params, n=3)
    check(generation.prompt_scores, ids, 0)


async def test_other_rows_decode_beside_a_prompt_that_is_scored(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), max_rows=4)
    alone = await greedy(engine, [5, 6, 7], 40)
    beside: list[Any] = await asyncio.gather(greedy(engine, [5, 6, 7], 40), scores_of(engine, prompt(300)))
    assert beside[0] == alone
    check(beside[1].prompt_scores, prompt(300), 3)


async def test_a_preempted_row_reports_each_token_once(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), kv_cache_bytes=24 * 16 * 2 * 2 * 2 * 16 * 4, max_model_len=300)
    params = SamplingParams(max_tokens=150, temperature=0.0, prompt_logprobs=1)
    ids = [prompt(100, seed) for seed in range(2)]
    generations = await asyncio.gather(*(scores_of(engine, one, params) for one in ids))
    assert engine.stats().preemptions > 0
    for generation, one in zip(generations, ids, strict=True):
        check(generation.prompt_scores, one, 1)


async def test_an_end_of_sequence_token_does_not_end_an_answer_without_tokens(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), eos=frozenset(range(VOCAB)))
    await scores_of(engine, prompt(8))
