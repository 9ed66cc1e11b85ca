"""Faults inside the engine: who is told what, what is free again, and that the next request succeeds."""

import asyncio
import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.engine.conftest import ENDLESS, VOCAB, StartEngine, collect, gated, greedy, make_model, reference
from truss_model.engine.engine import Engine
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.errors import EngineUnwell, GenerationFailed, LoadError, RequestError

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
LONG = SamplingParams(max_tokens=ENDLESS, temperature=0.0)
SMALL = EngineSettings(kv_cache_bytes=8 << 20, max_rows=1)


class Fault:
    """Raised once, by the step that comes next."""

    def __init__(self) -> None:
        self.armed: BaseException | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        error, self.armed = self.armed, None
        if error is not None:
            raise error
        return logits


@pytest.mark.parametrize("error", [RuntimeError("a kernel failed"), torch.OutOfMemoryError("CUDA out of memory")])
async def test_a_failing_step_fails_its_rows_and_the_next_request_succeeds(
    start_engine: StartEngine, error: Exception
) -> None:
    fault = Fault()
    engine = start_engine(gated(fault), max_rows=2)
    running = [engine.submit([3, 4], LONG), engine.submit([3, 9], LONG)]
    for generation in running:
        await anext(generation.outputs())
    waiting = engine.submit([3, 4], GREEDY)
    fault.armed = error
    for generation in running:
        with pytest.raises(GenerationFailed):
            await collect(generation)
    assert (await collect(waiting))[0].tokens == reference(make_model(), [3, 4], 8)
    assert engine.healthy
    assert engine.stats().faults == 1
    assert engine.stats().pages_free == engine.stats().pages_total


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(seed=1, top_p=0.9), SamplingParams(seed=1, presence_penalty=1.0, top_logprobs=2)]
)
async def test_a_fault_in_sampling_fails_its_step_alone(start_engine: StartEngine, params: SamplingParams) -> None:
    broken = threading.Event()
    engine = start_engine(gated(lambda logits: logits[..., :0] if broken.is_set() else logits))
    broken.set()
    with pytest.raises(GenerationFailed):
        await collect(engine.submit([3, 4], params))
    broken.clear()
    assert engine.healthy
    assert await greedy(engine, [3, 4], 8) == reference(make_model(), [3, 4], 8)


@pytest.mark.parametrize(
    ("prompt", "bias", "param"), [([3, VOCAB], {}, "prompt"), ([3], {5: 1.0, VOCAB: 1.0}, "logit_bias")]
)
async def test_ids_that_only_the_tokenizer_has_are_refused_before_they_fail_a_step(
    start_engine: StartEngine, prompt: list[int], bias: dict[int, float], param: str
) -> None:
    engine = start_engine(make_model())
    running = engine.submit([3, 4], GREEDY)
    with pytest.raises(RequestError, match="the model has 1024 ids") as caught:
        await collect(engine.submit(prompt, SamplingParams(logit_bias=bias)))
    assert caught.value.param == param
    assert (await collect(running))[0].tokens == reference(make_model(), [3, 4], 8)
    assert engine.stats().faults == 0


async def test_a_step_with_too_few_tokens_is_a_fault_of_its_rows(start_engine: StartEngine) -> None:
    broken = threading.Event()
    engine = start_engine(gated(lambda logits: logits[..., :-1, :] if broken.is_set() else logits), max_rows=2)
    running = [engine.submit([3, 4], LONG), engine.submit([3, 9], LONG)]
    for generation in running:
        await anext(generation.outputs())
    broken.set()
    for generation in running:
        with pytest.raises(GenerationFailed):
            await asyncio.wait_for(collect(generation), 60)
    broken.clear()
    assert await greedy(engine, [3, 4], 8) == reference(make_model(), [3, 4], 8)
    assert engine.stats().faults == 1


async def test_what_breaks_the_thread_keeps_nobody_behind_it_from_being_told() -> None:
    held, release = threading.Event(), threading.Event()

    def hold(logits: torch.Tensor) -> torch.Tensor:
        held.set()
        assert release.wait(60)
        return logits

    class Unknown(Generation):
        def __hash__(self) -> int:
            raise RuntimeError("no such request")

    release.set()
    engine = Engine(gated(hold), SMALL, eos_token_ids=frozenset())
    engine.start()
    release.clear()
    held.clear()
    running = engine.submit([3, 4], LONG)
    assert await asyncio.to_thread(held.wait, 60)
    for _ in range(2):
        engine.reject(Unknown(1, 1, lambda *_: None), EngineUnwell("gone"))
    behind = engine.submit([3, 4], LONG)
    release.set()
    for generation in (running, behind):
        with pytest.raises(EngineUnwell):
            await asyncio.wait_for(collect(generation), 60)
    engine.stop()
    assert not engine.healthy


async def test_a_fault_of_the_gpu_ends_the_thread_and_everybody_is_told() -> None:
    fault = Fault()
    engine = Engine(gated(fault), SMALL, eos_token_ids=frozenset())
    engine.start()
    running, waiting = engine.submit([3, 4], LONG), engine.submit([5], LONG)
    await anext(running.outputs())
    fault.armed = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    with pytest.raises(GenerationFailed):
        await asyncio.wait_for(collect(running), 60)
    with pytest.raises(EngineUnwell):
        await asyncio.wait_for(collect(waiting), 60)
    engine.join()
    assert not engine.healthy


async def test_repeated_faults_make_it_unwell_until_a_step_succeeds(start_engine: StartEngine) -> None:
    broken = threading.Event()

    def fail(logits: torch.Tensor) -> torch.Tensor:
        if broken.is_set():
            raise RuntimeError("broken")
        return logits

    engine = start_engine(gated(fail))
    broken.set()
    for _ in range(3):
        with pytest.raises(GenerationFailed):
            await greedy(engine, [3], 4)
    assert not engine.healthy
    broken.clear()
    assert len(await greedy(engine, [3], 4)) == 4
    assert engine.healthy


async def test_the_thread_dies_and_everybody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fault = Fault()
    engine = Engine(gated(fault), SMALL, eos_token_ids=frozenset())
    engine.start()
    running, waiting = engine.submit([3, 4], LONG), engine.submit([5], LONG)
    await anext(running.outputs())
    fault.armed = SystemExit("the device is gone")
    with pytest.raises(EngineUnwell):
        await asyncio.wait_for(waiting.admitted(), 30)
    for generation in (running, waiting):
        with pytest.raises(EngineUnwell):
            await asyncio.wait_for(collect(generation), 30)
    assert not engine.healthy
    for ask in (engine.check_room, lambda: engine.submit([3], GREEDY)):
        with pytest.raises(EngineUnwell):
            ask()
    engine.stop()
    stats = engine.stats()
    assert (stats.rows_running, stats.requests_waiting, stats.pages_free) == (0, 0, stats.pages_total)
    assert [record.message for record in caplog.records] == ["The engine thread died."]


async def test_an_engine_that_ends_while_a_request_is_submitted_tells_its_caller() -> None:
    """Between the check and the hand-over: the grammar's state is made there."""
    engine = Engine(make_model(), SMALL, eos_token_ids=frozenset())
    engine.start()

    class AnyToken:
        def __init__(self) -> None:
            engine.stop()

        def fill(self, words: npt.NDArray[np.int32]) -> None:
            words[:] = -1

        def accept(self, token_id: int) -> None:
            pass

    with pytest.raises(EngineUnwell):
        engine.submit([3, 4], SamplingParams(constraint=AnyToken))
    assert engine.stats().requests_waiting == 0


async def test_stopping_tells_everybody() -> None:
    engine = Engine(make_model(), SMALL, eos_token_ids=frozenset())
    with pytest.raises(EngineUnwell):
        engine.submit([1], GREEDY)
    engine.start()
    generation = engine.submit([1], LONG)
    await generation.admitted()
    await asyncio.to_thread(engine.stop)
    with pytest.raises(EngineUnwell):
        await collect(generation)
    with pytest.raises(EngineUnwell):
        engine.submit([1], GREEDY)
    assert not engine.healthy


def test_a_loop_that_has_closed_takes_its_callers_along(start_engine: StartEngine) -> None:
    engine = start_engine(make_model())

    async def leave() -> None:
        await engine.submit([1], LONG).admitted()

    asyncio.run(leave())
    assert asyncio.run(greedy(engine, [3, 4], 8)) == reference(make_model(), [3, 4], 8)
    assert engine.healthy


def test_a_model_that_cannot_run_says_so_at_start() -> None:
    fault = Fault()
    fault.armed = RuntimeError("no such kernel")
    engine = Engine(gated(fault), SMALL, eos_token_ids=frozenset())
    with pytest.raises(LoadError, match="family mistral fails: RuntimeError: no such kernel"):
        engine.start()


@pytest.mark.parametrize("broken", ["fill", "accept"])
async def test_a_broken_grammar_fails_its_request_only(start_engine: StartEngine, broken: str) -> None:
    class Broken:
        def fill(self, words: npt.NDArray[np.int32]) -> None:
            words[:] = -1
            if broken == "fill":
                raise ValueError("too much work")

        def accept(self, token_id: int) -> None:
            raise ValueError("rejected")

    engine = start_engine(make_model())
    bad = engine.submit([3, 4], SamplingParams(temperature=0.0, constraint=Broken))
    good = engine.submit([3, 4], GREEDY)
    with pytest.raises(GenerationFailed, match="grammar"):
        await collect(bad)
    assert (await collect(good))[0].tokens == reference(make_model(), [3, 4], 8)
