"""The engine in this process on the demo model's weights, as model.py makes it, and prompts encoded for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from benchmarks.client import Answer
from benchmarks.prompts import Message
from truss_model.engine.engine import Engine
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.loading import load_model
from truss_model.loading.demo import demo_folder
from truss_model.request.predict_request import PredictRequest, RequestLimits, parse_request
from truss_model.settings import ModelSettings
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class DemoEngine:
    engine: Engine
    model: PreTrainedModel
    tokenizer: ChatTokenizer

    def parse(self, body: dict[str, object]) -> PredictRequest:
        return parse_request(body, RequestLimits(self.tokenizer.vocab_size, None))

    def encode(self, messages: Sequence[Message]) -> Sequence[int]:
        request = self.parse({"messages": list(messages)})
        return self.tokenizer.encode_chat(request.messages or [], request.tools)

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> Answer:
        """One row to its end; a stamp for every delivery."""
        answer = Answer(time.perf_counter())
        generation = self.engine.submit(prompt, params)
        answer.completion_tokens = 0
        async for outputs in generation.outputs():
            answer.stamps.append(time.perf_counter())
            answer.completion_tokens += sum(len(output.token_ids) for output in outputs)
        answer.ended = time.perf_counter()
        answer.prompt_tokens, answer.cached_tokens = len(prompt), generation.cached_tokens
        return answer


@contextmanager
def demo_engine(settings: EngineSettings | None = None) -> Iterator[DemoEngine]:
    loaded = load_model(ModelSettings(id="demo"), {}, None)
    tokenizer = load_tokenizer(loaded.folder)
    engine = Engine(loaded.model, settings or EngineSettings(), eos_token_ids=tokenizer.eos_token_ids)
    engine.start()
    try:
        yield DemoEngine(engine, loaded.model, tokenizer)
    finally:
        engine.stop()


def greedy(tokens: int) -> SamplingParams:
    """Exactly so many tokens."""
    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def demo_weights() -> Path:
    """The folder that every server of the comparison reads; the first call on a machine converts it."""
    return demo_folder(None)
