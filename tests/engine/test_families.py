"""Every family is served with transformers' log-probabilities or refused by its name: there is no third outcome."""

import asyncio

import pytest
import torch
from transformers import PreTrainedModel

from scripts import families
from tests.engine.conftest import Answer, StartEngine, collect
from tests.engine.families import FAMILIES
from truss_model.engine.engine import Engine
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

STATE = "its layers of the kind {} keep another state than keys and values"
ALIBI = "it tells positions by ALiBi, which the engine's attention does not compute"
TURNS = (
    " with contexts of 512 tokens: their rotary frequencies change with the length of the context ({}). Set "
    "model_metadata.engine.max_model_len to at most {}."
)
# Behind "The engine cannot serve models of the family ...".
TOLD = {
    "llama, dynamic rope": TURNS.format("dynamic", 511),
    "phi3, longrope": TURNS.format("longrope", 63),
    "qwen3_next": f": {STATE.format('linear_attention')}.",
    "qwen3_5_text": f": {STATE.format('linear_attention')}.",
    "mamba": f": {STATE.format('linear_attention')}.",
    "jamba": f": {STATE.format('linear_attention')}.",
    "falcon_h1": f": {STATE.format('hybrid')}.",
    "lfm2": f": {STATE.format('conv')}.",
    "llama4_text": f": {STATE.format('chunked_attention')}.",
    "bloom": f": {ALIBI}.",
    "mpt": f": {ALIBI}.",
    "falcon, ALiBi": f": {ALIBI}.",
}
OTHER_HEADS = (
    "The engine cannot serve this model of the family gpt2: ValueError: keys [4, 16] and values [4, 16] in pages for "
    "[2, 16]. transformers' own forward is what it is compared with."
)
DECODED = 32
BAR = 1e-3


def largest_gap(plain: PreTrainedModel, prompt: list[int], answer: Answer) -> float:
    """Between the log-probabilities of the 20 likeliest tokens at every step and one plain forward over all of it."""
    tokens = [*prompt, *answer.tokens]
    with torch.inference_mode():
        wanted = plain(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
    gaps = [
        abs(value - float(wanted[len(prompt) - 1 + i, token]))
        for i, entry in enumerate(answer.logprobs)
        for token, value in entry.top
    ]
    assert len(gaps) == 20 * DECODED
    return max(gaps)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused is None])
async def test_a_family_is_served_as_transformers_computes_it(start_engine: StartEngine, name: str) -> None:
    """A prompt in chunks, 32 steps of decoding beside another row, then a prompt that shares a prefix."""
    plain, family = FAMILIES[name].make(), FAMILIES[name]
    engine = start_engine(family.make(), token_budget=40, max_rows=3)
    assert [attempt.rung for attempt in engine.ladder.attempts] == ["all kernels"]
    params = SamplingParams(max_tokens=DECODED, temperature=0.0, top_logprobs=20)
    first = [3 + (7 * at * at) % 120 for at in range(90)]
    second, third = [5, 9, 4], [*first[:61], 8, 7, 6]
    answers = await asyncio.gather(*(collect(engine.submit(prompt, params)) for prompt in (first, second)))
    shared = engine.submit(third, params)
    found = [*answers, await collect(shared)]
    assert shared.cached_tokens >= 48
    for prompt, (answer,) in zip((first, second, third), found, strict=True):
        assert largest_gap(plain, prompt, answer) <= BAR


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused is not None])
def test_a_family_is_refused_by_its_name(name: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(LoadError) as refusal:
        Engine(family.make(), EngineSettings(kv_cache_bytes=8 << 20), eos_token_ids=frozenset()).start()
    told = f"The engine cannot serve models of the family {family.config}{TOLD[name]}" if name in TOLD else OTHER_HEADS
    assert refusal.value.message == told


def test_enough_families_are_tried() -> None:
    assert len({family.config for family in FAMILIES.values()}) >= 40


def test_the_readme_has_the_table_that_these_tests_make() -> None:
    text = families.README.read_text()
    assert families.with_table(text) == text
