"""Whatever ends the engine's process, or keeps a request from being answered: its caller is told, and it is healed."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import scripted_worker as scripted
from tests.engine.conftest import ENDLESS, collect, make_model
from tests.engine.faulty_worker import FATAL
from truss_model.built_engine import BuiltEngine
from truss_model.engine.engine import Engine
from truss_model.engine.messages import FrameReader, pack_params
from truss_model.engine.pipe_delivery import NumberedGeneration, PipeDelivery
from truss_model.engine.remote import RemoteEngine
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.errors import EngineUnwell, GenerationFailed, GpuLost, LoadError, RequestError
from truss_model.worker import Requests

SETTINGS = EngineSettings(max_queue=4)
LONG = SamplingParams(max_tokens=ENDLESS, temperature=0.0)
SHORT = SamplingParams(max_tokens=4, temperature=0.0)
Start = Callable[..., RemoteEngine]


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[RemoteEngine] = []

    def started(config: dict[str, Any], module: str = scripted.__name__) -> RemoteEngine:
        engine = RemoteEngine(SETTINGS, config, None, module=module)
        engines.append(engine)
        engine.start()
        return engine

    yield started
    for engine in engines:
        engine.stop()


async def healed(engine: RemoteEngine) -> None:
    async with asyncio.timeout(240):
        while not engine.healthy:
            await asyncio.sleep(0.02)


@pytest.mark.timeout(300)
async def test_a_fault_of_the_gpu_in_a_step_ends_the_process_and_the_next_one_serves_with_less(
    start: Start, tmp_path: Path
) -> None:
    """A single step: no later one can succeed."""
    engine = start({"folder": str(tmp_path)}, "tests.engine.faulty_worker")
    assert [attempt.rung for attempt in engine.attempts] == ["all kernels"]
    beside = [engine.submit([3, number], LONG) for number in range(4)]
    for generation in beside:
        await anext(generation.outputs())
    lost = engine.submit([FATAL, 3], SHORT)  # waits for a row; its pages hold nothing yet, so that it has a prompt
    for generation in beside[1:]:
        generation.cancel()
    for generation in (lost, beside[0]):
        with pytest.raises((GenerationFailed, EngineUnwell)):
            await asyncio.wait_for(collect(generation), 60)
    await healed(engine)
    assert [attempt.rung for attempt in engine.attempts] == ["decode recordings alone"]
    assert len((await collect(engine.submit([FATAL, 3], SHORT)))[0].tokens) == 4


def test_a_fault_of_the_gpu_at_the_start_is_followed_by_a_start_with_less(start: Start, tmp_path: Path) -> None:
    assert start(scripted.config(tmp_path, "lost", "lost", "lost", 100)).max_model_len == 100


def test_a_gpu_that_is_lost_at_every_start_is_told(start: Start, tmp_path: Path) -> None:
    with pytest.raises(GpuLost, match="lost for good"):
        start(scripted.config(tmp_path, "lost", "lost", "lost", "lost for good"))


def test_a_process_that_is_killed_while_it_starts_is_told(start: Start, tmp_path: Path) -> None:
    with pytest.raises(LoadError) as error:
        start(scripted.config(tmp_path, scripted.KILLED))
    assert error.value.message == (
        "The engine's process ended with SIGKILL while it started. The system may have run out of memory."
    )


async def test_limits_and_attempts_are_those_of_the_process_that_runs(start: Start, tmp_path: Path) -> None:
    engine = start(scripted.config(tmp_path, 100, 50))
    generation = engine.submit([3] * 60, SamplingParams(max_tokens=20))
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineUnwell):
        await asyncio.wait_for(generation.admitted(), 60)
    await healed(engine)
    assert (engine.max_model_len, [attempt.detail for attempt in engine.attempts]) == (50, ["50 tokens"])
    with pytest.raises(RequestError, match=r"maximum context length is 50 tokens. However, you requested 80"):
        engine.submit([3] * 60, SamplingParams(max_tokens=20))


async def test_a_message_that_cannot_be_read_fails_every_caller_and_a_new_process_is_started(
    start: Start, tmp_path: Path
) -> None:
    engine = start(scripted.config(tmp_path, 100, answer=(1, 2, 3)))
    pid = engine.pid
    generations = [engine.submit([3], SHORT) for _ in range(2)]
    for generation in generations:
        with pytest.raises(EngineUnwell):
            await asyncio.wait_for(generation.admitted(), 60)
    await healed(engine)
    assert engine.pid != pid


async def test_a_process_that_ends_no_step_is_replaced_and_its_callers_are_told(tmp_path: Path) -> None:
    settings = EngineSettings(step_timeout_seconds=0.2)
    engine = RemoteEngine(settings, scripted.config(tmp_path, 100), None, module=scripted.__name__)
    try:
        engine.start()
        pid = engine.pid
        waiting = engine.submit([3], SHORT)  # of a process that answers nothing
        with pytest.raises(EngineUnwell, match="started again"):
            await asyncio.wait_for(waiting.admitted(), 60)
        await healed(engine)
        assert engine.pid != pid
    finally:
        engine.stop()


async def test_requests_that_are_cancelled_while_they_wait_leave_the_queue(start: Start, tmp_path: Path) -> None:
    """The process has nothing to say of them."""
    engine = start(scripted.config(tmp_path, 100))
    for _ in range(3 * SETTINGS.max_queue):
        engine.submit([3], SHORT, n=2).cancel()
    generation = engine.submit([3], SHORT, n=2)
    for row in range(2):
        generation.cancel(row)
    for _ in range(SETTINGS.max_queue):
        engine.submit([3], SHORT)


class Grammars:
    """Of which one cannot be made at all, and the others' states cannot."""

    def restore(self, source: tuple[str, str]) -> Any:
        if source == ("json", "none"):
            raise ValueError("no such grammar")

        def state() -> None:
            raise MemoryError("no room for the automaton")

        return state


@pytest.mark.parametrize("values", [(), None], ids=["parameters of another version", "parameters as they are"])
@pytest.mark.parametrize("grammar", [("json", "none"), ("json", "some"), None])
def test_a_request_that_cannot_be_started_is_told_to_its_caller(
    values: tuple[object, ...] | None, grammar: tuple[str, str] | None
) -> None:
    ours, theirs = socket.socketpair()
    delivery = PipeDelivery(theirs.sendall)
    engine = Engine(make_model(), EngineSettings(kv_cache_bytes=8 << 20), eos_token_ids=frozenset(), delivery=delivery)
    engine.start()
    with ours, theirs:
        ours.settimeout(60)
        delivery.state = lambda: (engine.stats(), engine.healthy)
        grammars: Any = Grammars()
        requests = Requests(BuiltEngine(engine, grammars, Path(), "tiny"), delivery)
        packed = pack_params(SHORT) if values is None else values
        requests.handle(("submit", 7, [3, 4], 1, packed, grammar))
        if values is None and grammar is None:
            requests.handle(("submit", 8, [3, 4], 1, (), None))  # the one beside it fails alone
        told, tokens = dict[int, str](), list[int]()
        reader = FrameReader(ours)
        while not told or (values is None and grammar is None and len(tokens) < SHORT.max_tokens):
            for _, _, numbers, _, _, _, _, failed, *_ in reader.wait():
                tokens += numbers
                told |= {number: error[0] for number, error in failed}
        number = 8 if values is None and grammar is None else 7
        assert told == {number: "GenerationFailed"}
        assert delivery.generations == {}
        engine.stop()
    assert engine.stats().requests_waiting == 0


def test_a_server_that_has_ended_does_not_end_a_step_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the socket ends the process then."""
    ours, theirs = socket.socketpair()
    delivery = PipeDelivery(theirs.sendall)
    engine = Engine(make_model(), EngineSettings(kv_cache_bytes=8 << 20), eos_token_ids=frozenset(), delivery=delivery)
    engine.start()
    with ours, theirs:
        delivery.state = lambda: (engine.stats(), engine.healthy)
        generation = delivery.generations[1] = NumberedGeneration(1, 2, 1)
        ours.close()
        engine.enqueue(generation, [3, 4], SHORT, 1, None)
        while delivery.generations:
            engine.check_room()
        engine.stop()
    assert not caplog.records
