"""Tiny random models in float32, and plain transformers `generate` as the reference for every token."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from truss_model.engine.engine import Engine
from truss_model.engine.generation import FinishReason, Generation, TokenLogprob
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings

VOCAB = 1024
ENDLESS = 7000  # tokens, which take seconds: no such row ends by itself before the test ends it
Around = Callable[[torch.Tensor], torch.Tensor]
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
}


def make_model(window: int | None = None, family: str = "mistral", seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)).eval()
        return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).eval()


class Gate(torch.nn.Module):
    """An output head that runs `around` each time: to hold a step open, to make it fail, to change the logits."""

    def __init__(self, head: torch.nn.Module, around: Around) -> None:
        super().__init__()
        self.head = head
        self.around = around

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.around(self.head(hidden))


def gated(around: Around) -> PreTrainedModel:
    """A model with a gate; the engine keeps it, since a Gate is no plain linear layer."""
    model = make_model()
    model.lm_head = Gate(model.lm_head, around)
    return model


def reference(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """What plain transformers generates greedily in float32."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


async def collect(generation: Generation) -> list[Answer]:
    """All rows of a request, to their ends."""
    answers: dict[int, Answer] = {}
    async for batch in generation.outputs():
        for output in batch:
            answer = answers.setdefault(output.index, Answer())
            answer.tokens += output.token_ids
            answer.logprobs += output.logprobs
            answer.finish_reason = output.finish_reason
    return [answers[index] for index in sorted(answers)]


async def greedy(engine: Engine, prompt: list[int], tokens: int) -> list[int]:
    return (await collect(engine.submit(prompt, SamplingParams(max_tokens=tokens, temperature=0.0))))[0].tokens


StartEngine = Callable[..., Engine]


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    """Start engines that end with the test; every page must be free again by then."""
    engines: list[Engine] = []

    def start(model: PreTrainedModel, *, eos: frozenset[int] = frozenset(), **settings: object) -> Engine:
        chosen = EngineSettings(**{"kv_cache_bytes": 8 << 20, **settings})  # type: ignore[arg-type]
        engine = Engine(model, chosen, eos_token_ids=eos)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.stop()
        stats = engine.stats()
        assert stats.pages_free == stats.pages_total
        assert stats.rows_running == stats.requests_waiting == 0
