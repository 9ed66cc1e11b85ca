"""Steps launched before the last one's tokens are known: the same answers as one after the other, in every case.

On the CPU with plain torch in the place of the GPU's kernels, and recordings that just do their work again.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.conftest import ENDLESS, Answer, collect, greedy, make_model, reference
from truss_model.engine.engine import Engine
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.device import make_backend
from truss_model.engine.execution.limits import Limits
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.errors import GenerationFailed

Work = Callable[[], object]


@dataclass
class Recorder:
    """Counts replays; a recording works when it is made, as warming up does."""

    replays: int = 0

    def __call__(self, work: Work) -> Work:
        work()

        def replay() -> None:
            self.replays += 1
            work()

        return replay


class NotedAttention(TorchPagedAttention):
    """Notes what each step has: its tokens, and how many rows may decode; recorded ones tell the host no spans."""

    def __init__(self, kv: PagedKV) -> None:
        super().__init__(kv)
        self.eager: list[tuple[int, int]] = []
        self.recorded: list[tuple[int, int]] = []

    def __call__(self, layer: int, query: torch.Tensor, *rest: Any) -> torch.Tensor:
        batch: StepBatch = rest[2]
        if layer == 0:
            (self.recorded if batch.spans is None else self.eager).append((len(query), batch.decodes))
        return super().__call__(layer, query, *rest)

    @property
    def mixed(self) -> list[tuple[int, int]]:
        """The recorded steps in which not all rows decode."""
        return [step for step in self.recorded if step[0] != step[1]]


@dataclass
class Engines:
    """The same engine twice: one step after the other, and ahead."""

    recorder: Recorder = field(default_factory=Recorder)
    attentions: list[NotedAttention] = field(default_factory=list)
    started: list[Engine] = field(default_factory=list)

    def ahead(self, model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        kv = PagedKV(model.config, limits.pages, limits.page_size, model.dtype, model.device, transposed_keys=False)
        self.attentions.append(NotedAttention(kv))
        return Backend(kv, self.attentions[-1], asynchronous=True, capture=self.recorder)

    def start(
        self,
        ahead: bool,
        *,
        window: int | None = None,
        eos: frozenset[int] = frozenset(),
        **settings: object,
    ) -> Engine:
        chosen = EngineSettings(**{"kv_cache_bytes": 8 << 20, "max_rows": 6, **settings})  # type: ignore[arg-type]
        make = self.ahead if ahead else make_backend
        engine = Engine(make_model(window), chosen, eos_token_ids=eos, make_backend=make)
        engine.start()
        self.started.append(engine)
        if ahead:
            self.attentions[-1].eager.clear()
            self.attentions[-1].recorded.clear()
        return engine


@pytest.fixture
def engines() -> Iterator[Engines]:
    made = Engines()
    yield made
    for engine in made.started:
        engine.stop()
        assert engine.stats().pages_free == engine.stats().pages_total


class EvenTokens:
    """A grammar that allows even and odd tokens in turn, by what it was told."""

    def __init__(self) -> None:
        self.parity = 0

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        words[:] = np.int32(0x55555555) if self.parity == 0 else np.int32(-0x55555556)

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == self.parity
        self.parity = 1 - self.parity


def requests() -> list[tuple[list[int], SamplingParams, int]]:
    """Every kind of row, of different lengths."""
    return [
        ([3, 4], SamplingParams(max_tokens=9, temperature=0.0), 1),
        ([7] * 40, SamplingParams(max_tokens=14, temperature=0.9, seed=1), 2),
        ([5], SamplingParams(max_tokens=1, temperature=0.0), 1),
        ([6, 6, 6], SamplingParams(max_tokens=11, temperature=1.3, top_p=0.8, seed=2), 1),
        ([8, 9], SamplingParams(max_tokens=8, temperature=0.8, top_k=20, seed=3, top_logprobs=2), 1),
        ([8, 2], SamplingParams(max_tokens=12, temperature=0.8, min_p=0.2, seed=3), 1),
        ([8, 1], SamplingParams(max_tokens=7, temperature=0.0, presence_penalty=1.5, frequency_penalty=1.0), 1),
        ([9, 1], SamplingParams(max_tokens=7, temperature=0.0, repetition_penalty=3.0), 1),
        ([1, 1], SamplingParams(max_tokens=6, temperature=0.0, logit_bias={5: 100.0}), 1),
        ([2, 1], SamplingParams(max_tokens=10, temperature=1.0, seed=4, min_tokens=6), 1),
        ([4, 4], SamplingParams(max_tokens=10, temperature=0.7, seed=5, constraint=EvenTokens), 1),
    ]


def same(one: Answer, other: Answer) -> bool:
    """Logprobs may differ by rounding, as rows share a batch with others."""
    near = all(
        a.logprob == pytest.approx(b.logprob, abs=1e-4) for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )
    return near and (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)


@pytest.mark.parametrize("eos", [frozenset(), frozenset(range(0, 1024, 7))], ids=["to the end", "many ends"])
async def test_every_kind_of_row_gets_the_same_answer(engines: Engines, eos: frozenset[int]) -> None:
    answers: list[list[Answer]] = []
    for ahead in (False, True):
        engine = engines.start(ahead, eos=eos)
        running = [collect(engine.submit(prompt, params, n=n)) for prompt, params, n in requests()]
        answers.append([answer for rows in await asyncio.gather(*running) for answer in rows])
    for alone, together in zip(*answers, strict=True):
        assert same(alone, together)
    assert engines.recorder.replays > 0


async def test_rows_that_are_preempted_get_the_same_answer(engines: Engines) -> None:
    model = make_model()
    page_bytes = 16 * 2 * 2 * 2 * 16 * 4
    engine = engines.start(True, kv_cache_bytes=8 * page_bytes)
    prompts = [[i, 3 * i] * 5 for i in range(1, 6)]
    greedy = SamplingParams(max_tokens=50, temperature=0.0)
    answers = await asyncio.gather(*(collect(engine.submit(prompt, greedy)) for prompt in prompts))
    assert [answer.tokens for (answer,) in answers] == [reference(model, prompt, 50) for prompt in prompts]
    assert engine.stats().preemptions > 0


async def test_alone_each_kind_of_row_gets_the_same_answer(engines: Engines) -> None:
    """No row that must wait for its last token makes the others of its step wait."""
    in_turn, ahead = engines.start(False), engines.start(True)
    for prompt, params, n in requests():
        wanted = await collect(in_turn.submit(prompt, params, n=n))
        got = await collect(ahead.submit(prompt, params, n=n))
        assert [*map(same, wanted, got)] == [True] * n


async def test_an_end_found_late_costs_one_step_and_changes_nothing(engines: Engines) -> None:
    tokens = reference(make_model(), [3, 4], 8)
    eos = frozenset({tokens[3]})
    length = tokens.index(tokens[3]) + 1
    params = SamplingParams(max_tokens=8, temperature=0.0)
    for ahead in (False, True):
        engine = engines.start(ahead, eos=eos)
        assert await collect(engine.submit([3, 4], params)) == [Answer(tokens[:length], [], "stop")]
        again = await collect(engine.submit([3, 4, *tokens[:length], 9], params))
        assert again[0].tokens[:1] == reference(make_model(), [3, 4, *tokens[:length], 9], 1)
        stats = engine.stats()
        assert stats.generated_tokens == length + len(again[0].tokens)
        steps = stats.steps
        if not ahead:
            in_turn = steps
    assert steps > in_turn


async def test_a_known_end_costs_no_step_more(engines: Engines) -> None:
    for ahead in (False, True):
        engine = engines.start(ahead)
        await collect(engine.submit([3, 4], SamplingParams(max_tokens=8, temperature=0.0)))
        assert engine.stats().steps == 8


async def test_a_conversation_finds_its_pages_again(engines: Engines) -> None:
    engine = engines.start(True)
    history = [5] * 20
    for _ in range(4):
        answer = (await collect(engine.submit(history, SamplingParams(max_tokens=12, temperature=0.0))))[0]
        assert answer.tokens == reference(make_model(), history, 12)
        history += [*answer.tokens, 7, 8]
    assert engine.stats().prefill_tokens <= 20 + 3 * 4


async def test_cancelled_rows_leave_at_once_and_disturb_nobody(engines: Engines) -> None:
    engine = engines.start(True)
    staying = engine.submit([3, 4], SamplingParams(max_tokens=40, temperature=0.0))
    leaving = engine.submit([5, 6], SamplingParams(max_tokens=ENDLESS, temperature=0.0), n=2)
    async for outputs in leaving.outputs():
        if any(output.index == 1 for output in outputs):
            leaving.cancel(1)
        if sum(len(output.token_ids) for output in outputs):
            leaving.cancel()
    assert (await collect(staying))[0].tokens == reference(make_model(), [3, 4], 40)
    await greedy(engine, [5], 1)  # what was cancelled before is dropped before this is admitted
    assert engine.stats().rows_running == 0


async def test_a_step_that_fails_while_another_runs(engines: Engines) -> None:
    """The rows that were in it fail, rows that come later do not."""
    broken = asyncio.Event()
    model = make_model()
    head = model.lm_head

    class Head(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            if broken.is_set():
                raise RuntimeError("broken")
            out: torch.Tensor = head(hidden)
            return out

    model.lm_head = Head()
    engine = Engine(
        model,
        EngineSettings(kv_cache_bytes=8 << 20, max_rows=6),
        eos_token_ids=frozenset(),
        make_backend=engines.ahead,
    )
    engine.start()
    engines.started.append(engine)
    generation = engine.submit([3, 4], SamplingParams(max_tokens=ENDLESS, temperature=0.0))
    with pytest.raises(GenerationFailed):
        async for _ in generation.outputs():
            broken.set()
    broken.clear()
    answer = await collect(engine.submit([3, 4], SamplingParams(max_tokens=5, temperature=0.0)))
    assert answer[0].tokens == reference(make_model(), [3, 4], 5)


async def test_without_recordings_steps_still_run_ahead(engines: Engines) -> None:
    engine = engines.start(True, cuda_graphs=False)
    answer = (await collect(engine.submit([3, 4], SamplingParams(max_tokens=9, temperature=0.0))))[0]
    assert answer.tokens == reference(make_model(), [3, 4], 9)
    assert engines.recorder.replays == 0
