"""The engine's interface: limits, order, cancelling."""

import asyncio
import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.engine.conftest import ENDLESS, Answer, StartEngine, collect, gated, greedy, make_model, reference
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import QueueFull, RequestError

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)


async def test_max_tokens_is_exact_and_its_reason_length(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())
    for tokens in (1, 2, 17):
        answer = (await collect(engine.submit([3, 4], SamplingParams(max_tokens=tokens, temperature=0.0))))[0]
        assert (len(answer.tokens), answer.finish_reason) == (tokens, "length")


async def test_end_of_sequence_stops_and_ignore_eos_goes_on(start_engine: StartEngine) -> None:
    expected = reference(make_model(), [3, 4], 8)
    eos = expected[3]
    engine = start_engine(make_model(), eos=frozenset({eos}))
    stopped = (await collect(engine.submit([3, 4], GREEDY)))[0]
    at = expected.index(eos)
    assert stopped == Answer(expected[: at + 1], [], "stop")
    on = (await collect(engine.submit([3, 4], SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))))[0]
    assert on == Answer(expected, [], "length")


async def test_seeds_reproduce_alone_and_in_a_batch(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())
    params = SamplingParams(max_tokens=12, seed=7, top_p=0.95)
    alone = (await collect(engine.submit([3, 4], params)))[0]
    others = [collect(engine.submit([9, i], SamplingParams(max_tokens=12))) for i in range(6)]
    together, *_ = await asyncio.gather(collect(engine.submit([3, 4], params, n=2)), *others)
    assert together[0] == alone
    assert together[1] != alone
    shifted = (await collect(engine.submit([3, 4], SamplingParams(max_tokens=12, seed=8, top_p=0.95))))[0]
    assert together[1] == shifted


async def test_logprobs_equal_a_plain_forward(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())
    params = SamplingParams(max_tokens=6, temperature=0.0, top_logprobs=2)
    answer = (await collect(engine.submit([3, 4, 5], params)))[0]
    with torch.inference_mode():
        plain = make_model()(torch.tensor([[3, 4, 5, *answer.tokens]])).logits[0].log_softmax(-1)
    for at, (token, entry) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        assert entry.logprob == pytest.approx(float(plain[2 + at, token]), abs=1e-4)
        assert [value for _, value in entry.top] == pytest.approx(plain[2 + at].topk(2).values.tolist(), abs=1e-4)


async def test_a_request_that_cannot_fit_is_refused(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), max_model_len=64)
    with pytest.raises(RequestError, match=r"maximum context length is 64 tokens.*requested 65") as caught:
        engine.submit([1] * 57, GREEDY)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert len(await greedy(engine, [1] * 56, 8)) == 8


async def test_no_more_than_the_pages_hold(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), kv_cache_bytes=3 * 16 * 2 * 2 * 2 * 16 * 4)
    assert engine.max_model_len == 48
    with pytest.raises(RequestError):
        engine.submit([1] * 41, GREEDY)


async def test_a_full_queue_is_refused_and_admits_again(start_engine: StartEngine) -> None:
    opened, entered = threading.Event(), threading.Event()

    def hold(logits: torch.Tensor) -> torch.Tensor:
        entered.set()
        assert opened.wait(30)
        return logits

    opened.set()
    engine = start_engine(gated(hold), max_rows=1, max_queue=2)
    opened.clear()
    first = engine.submit([1], GREEDY)
    await asyncio.to_thread(entered.wait, 30)
    await asyncio.wait_for(first.admitted(), 30)
    waiting = [engine.submit([2], GREEDY), engine.submit([3], GREEDY)]
    with pytest.raises(QueueFull) as caught:
        engine.submit([4], GREEDY)
    assert caught.value.retry_after >= 1
    opened.set()
    assert [len((await collect(it))[0].tokens) for it in (first, *waiting)] == [8, 8, 8]
    assert len(await greedy(engine, [4], 3)) == 3


async def test_waiting_too_long_is_told(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), max_rows=1, max_queue_seconds=0.0)
    running = engine.submit([1], SamplingParams(max_tokens=ENDLESS, temperature=0.0))
    late = engine.submit([2], GREEDY)
    with pytest.raises(QueueFull, match="waited 0 s"):
        await asyncio.wait_for(late.admitted(), 30)
    running.cancel()


async def test_cancelled_rows_free_their_pages_and_the_others_go_on(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())
    generation = engine.submit([1] * 40, SamplingParams(max_tokens=ENDLESS, temperature=0.0), n=3)
    seen: dict[int, list[int]] = {}
    async for batch in generation.outputs():
        for output in batch:
            seen.setdefault(output.index, []).extend(output.token_ids)
        generation.cancel(1)
        if len(seen.get(0, ())) > 20:
            generation.cancel()
    assert 20 < len(seen[0]) < ENDLESS
    while engine.stats().rows_running:
        await greedy(engine, [5], 1)
    assert engine.stats().pages_free == engine.stats().pages_total


async def test_cancelling_at_any_moment_loses_nothing(start_engine: StartEngine) -> None:
    engine = start_engine(make_model(), max_rows=4)

    async def leave_after(outputs: int, i: int) -> None:
        generation = engine.submit([1 + i % 7] * (1 + i % 50), SamplingParams(max_tokens=40), n=1 + i % 3)
        if outputs == 0:
            generation.cancel()
        async for _ in generation.outputs():
            outputs -= 1
            if outputs <= 0:
                generation.cancel()

    await asyncio.gather(*(leave_after(i % 9, i) for i in range(200)))
    assert await greedy(engine, [3, 4], 8) == reference(make_model(), [3, 4], 8)


async def test_a_finished_grammar_ends_the_answer_whatever_min_tokens_and_ignore_eos_say(
    start_engine: StartEngine,
) -> None:
    class OnlyTheEnd:
        def fill(self, words: npt.NDArray[np.int32]) -> None:
            words[0] = 1 << 2

        def accept(self, token_id: int) -> None:
            assert token_id == 2

    engine = start_engine(make_model(), eos=frozenset({2}))
    params = SamplingParams(max_tokens=9, min_tokens=5, ignore_eos=True, constraint=OnlyTheEnd)
    assert await collect(engine.submit([3, 4], params)) == [Answer([2], [], "stop")]
