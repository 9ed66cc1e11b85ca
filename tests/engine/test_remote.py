"""The engine in a process of its own: the same answers as in this one, and what happens when it is killed."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import collect
from truss_model.engine.engine import Engine
from truss_model.engine.remote import RemoteEngine
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.errors import EngineUnwell, LoadError, RequestError
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.loading import load_model
from truss_model.request.response_format import JsonFormat
from truss_model.settings import ModelSettings
from truss_model.tokenizer.chat_tokenizer import load_tokenizer

pytestmark = pytest.mark.timeout(300)
SETTINGS = EngineSettings(kv_cache_bytes=10_000_000)
ENDLESS = SamplingParams(max_tokens=1500, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def remote(tiny_mistral: Path) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(SETTINGS, config(tiny_mistral), None)
    engine.start()
    yield engine
    engine.stop()
    assert not engine.healthy


def config(weights: Path) -> dict[str, object]:
    model = {"path": str(weights), "device": "cpu", "dtype": "float32"}
    return {"model_metadata": {"model": model, "engine": {"kv_cache_bytes": 10_000_000}}}


@pytest.fixture(scope="module")
def local(tiny_mistral: Path) -> Iterator[Engine]:
    loaded = load_model(ModelSettings(path=tiny_mistral, device="cpu", dtype="float32"), {}, None)
    engine = Engine(loaded.model, SETTINGS, eos_token_ids=frozenset({2}))
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=20, temperature=0.0, top_logprobs=3),
        SamplingParams(max_tokens=20, seed=7, top_p=0.9, logit_bias={5: 3.0}, frequency_penalty=0.5),
    ],
)
async def test_answers_are_those_of_an_engine_in_this_process(
    remote: RemoteEngine, local: Engine, params: SamplingParams
) -> None:
    ours, theirs = remote.submit([3, 4, 5], params, n=2), local.submit([3, 4, 5], params, n=2)
    got, expected = await collect(ours), await collect(theirs)
    assert [(a.tokens, a.finish_reason) for a in got] == [(a.tokens, a.finish_reason) for a in expected]
    assert [x.logprob for a in got for x in a.logprobs] == pytest.approx(
        [x.logprob for a in expected for x in a.logprobs], abs=1e-5
    )
    assert [len(x.top) for a in got for x in a.logprobs] == [len(x.top) for a in expected for x in a.logprobs]


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_scores_of_the_prompt_are_those_of_an_engine_in_this_process(
    remote: RemoteEngine, local: Engine, max_tokens: int
) -> None:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, prompt_logprobs=2)
    ours, theirs = remote.submit([3, 4, 5, 6], params), local.submit([3, 4, 5, 6], params)
    got, expected = await collect(ours), await collect(theirs)
    assert [(a.tokens, a.finish_reason) for a in got] == [(a.tokens, a.finish_reason) for a in expected]
    assert len(ours.prompt_scores) == 3
    assert [score.rank for score in ours.prompt_scores] == [score.rank for score in theirs.prompt_scores]


async def test_a_grammar_holds_in_the_other_process(remote: RemoteEngine, tiny_mistral: Path) -> None:
    tokenizer = load_tokenizer(tiny_mistral)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    grammar = GrammarCompiler(tokenizer).compile(JsonFormat(schema, strict=True))
    generation = remote.submit([3, 4], SamplingParams(max_tokens=60, seed=1, constraint=grammar))
    [answer] = await collect(generation)
    text = b"".join(tokenizer.vocabulary.token_bytes(token) for token in answer.tokens).decode()
    assert answer.finish_reason == "stop"
    assert json.loads(text)["n"] in (1, 2)


async def until_idle(remote: RemoteEngine) -> None:
    async with asyncio.timeout(60):
        while remote.stats().rows_running or remote.stats().requests_waiting:
            await asyncio.sleep(0.01)


async def test_a_cancelled_request_frees_its_pages(remote: RemoteEngine) -> None:
    await collect(remote.submit([3], SamplingParams(max_tokens=1)))
    free = remote.stats().pages_free
    generation = remote.submit([3, 4], ENDLESS, n=2)
    await anext(generation.outputs())
    assert remote.stats().rows_running > 0
    generation.cancel()
    await until_idle(remote)
    assert remote.stats().pages_free == free == remote.stats().pages_total


async def test_counts_and_times_are_known_before_the_first_request_and_after_the_last(tiny_mistral: Path) -> None:
    engine = RemoteEngine(SETTINGS, config(tiny_mistral), None)
    engine.start()
    async with asyncio.timeout(60):
        while not engine.stats().pages_total:
            await asyncio.sleep(0.01)
    assert set(engine.distributions()["step_rows"].counts) == {0}
    await collect(engine.submit([3], SamplingParams(max_tokens=3, ignore_eos=True)))
    async with asyncio.timeout(60):
        while sum(engine.distributions()["e2e_request_latency_seconds"].counts) == 0:
            await asyncio.sleep(0.01)
    assert engine.stats().generated_tokens == 3
    engine.stop()


async def test_what_cannot_be_served_is_refused_before_it_is_sent(remote: RemoteEngine) -> None:
    with pytest.raises(RequestError) as refused:
        remote.submit([3] * 3000, ENDLESS)
    assert refused.value.code == "context_length_exceeded"


async def test_a_killed_process_is_told_to_every_caller_and_started_again(remote: RemoteEngine) -> None:
    generations = [remote.submit([3, number], ENDLESS) for number in range(8)]
    for generation in generations:
        await generation.admitted()
    assert remote.pid is not None
    os.kill(remote.pid, signal.SIGKILL)
    for generation in generations:
        with pytest.raises(EngineUnwell):
            await collect(generation)
    assert not remote.healthy
    with pytest.raises(EngineUnwell):
        remote.check_room()
    async with asyncio.timeout(240):
        while not remote.healthy:
            await asyncio.sleep(0.05)
    [answer] = await collect(remote.submit([3, 4], SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)))
    assert len(answer.tokens) == 4


def test_a_process_that_cannot_start_says_why(tiny_mistral: Path) -> None:
    with pytest.raises(LoadError, match="No folder"):
        RemoteEngine(SETTINGS, config(tiny_mistral / "nowhere"), None).start()
    with pytest.raises(LoadError, match="ended with exit code 1 while it started"):
        RemoteEngine(SETTINGS, {}, None, module="truss_model.no_such_module").start()
