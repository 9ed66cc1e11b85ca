"""Runs steps: packs rows into one forward of the transformers model and samples. Knows plans, not requests."""

import logging
import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from truss_model.engine.attention import IMPLEMENTATION
from truss_model.engine.backend import MakeBackend, make_backend
from truss_model.engine.batch import StepBatch, pack, there
from truss_model.engine.generation import Generation
from truss_model.engine.graphs import DecodeGraphs
from truss_model.engine.limits import Limits
from truss_model.engine.params import SamplingParams
from truss_model.engine.row import PENDING, Row
from truss_model.engine.sampling import Choice, Sampled, Sampler, draw_plain, plain, plain_draws
from truss_model.engine.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that is launched. `sampling` are the chunks that get a token, in the order of the tokens."""

    plan: StepPlan
    sampling: list[Chunk]
    began: float
    choice: Choice | None

    def result(self) -> Sampled:
        """Wait for its tokens. Raises what the device raises."""
        return Sampled([], []) if self.choice is None else self.choice.result()

    @property
    def places(self) -> dict[int, int]:
        """By id of a row, the index of its token."""
        return {id(chunk.row): index for index, chunk in enumerate(self.sampling)}


class Runner:
    """The model made ready for one device. Everything here happens on the engine thread."""

    def __init__(
        self,
        model: PreTrainedModel,
        limits: Limits,
        eos_token_ids: frozenset[int],
        settings: EngineSettings,
        make: MakeBackend = make_backend,
    ) -> None:
        self.model = model
        self.device = model.device
        self.sampler = Sampler(eos_token_ids)
        self._limits = limits
        with torch.inference_mode():
            self._backend = make(model, limits, settings)
        model.set_attn_implementation(IMPLEMENTATION)
        self.kv = self._backend.kv
        self.runs_ahead = self._backend.asynchronous
        # The tokens of the step that is running, for the next one to begin with.
        self._newest = torch.zeros(limits.max_rows, dtype=torch.int64, device=self.device)
        self._graphs: DecodeGraphs | None = None
        if self._backend.capture is not None and settings.cuda_graphs:
            self._graphs = DecodeGraphs(self._logits, self.kv, limits, self._newest, self._backend.capture)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run one throw-away token through the model, so that the first caller pays for no lazy initialisation."""
        generation = Generation(1, 1, lambda *_: None)
        row = Row(generation, 0, [0], 1, SamplingParams(temperature=0.0), 0, pages=[0])
        self.step(StepPlan([Chunk(row, 0, 1, samples=True)]))
        if self.runs_ahead:
            self._try_largest()
        self._backend.tune()
        if self._graphs is not None:
            self._graphs.capture()

    def _try_largest(self) -> None:
        """A prompt that fills a step: compiles what prompts need, and memory that is not there shows now."""
        size, page_size = min(self._limits.token_budget, self._limits.max_model_len), self.kv.page_size
        generation = Generation(size, 1, lambda *_: None)
        params = SamplingParams(temperature=1.0, seed=0)
        row = Row(generation, 0, [0] * size, size, params, 0, pages=list(range(-(-size // page_size))))
        self.step(StepPlan([Chunk(row, 0, size, samples=True)]))

    def step(self, plan: StepPlan) -> Sampled:
        """Launch and wait."""
        return self.launch(plan).result()

    @torch.inference_mode()
    def launch(self, plan: StepPlan, before: RunningStep | None = None) -> RunningStep:
        """One forward over all rows of the plan; a token for each chunk that samples, in the plan's order.

        before: the step whose tokens the host does not know yet, PENDING in its rows.
        """
        began = time.monotonic()
        if plan.copies:
            self.kv.copy(plan.copies)
        places = before.places if before is not None else {}
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        rows = [chunk.row for chunk in sampling]
        draws = plain_draws(rows) if self.runs_ahead and all(map(plain, rows)) else None
        if self._graphs is not None and self._graphs.take(plan):
            logits, tokens = self._graphs.run(plan, places, draws)
        else:
            batch = pack(plan, self.kv.page_size, self.device)
            self._fill_pending(batch, plan, places)
            logits, tokens = self._logits(batch), None
        if not rows:
            return RunningStep(plan, sampling, began, None)
        if tokens is None and draws is not None:
            tokens = draw_plain(logits, there(draws, self.device))
        choice = Choice(tokens) if tokens is not None else self.sampler.choose(logits, rows)
        if self.runs_ahead:
            self._newest[: len(rows)] = choice.tokens
        return RunningStep(plan, sampling, began, choice)

    def _logits(self, batch: StepBatch) -> torch.Tensor:
        """[S, vocab], of the tokens in batch.sampled."""
        hidden = self.model.base_model(
            input_ids=batch.tokens,
            position_ids=batch.positions,
            use_cache=False,
            paged=self._backend.attention,
            batch=batch,
        ).last_hidden_state[0]
        return cast(torch.Tensor, self.model.lm_head(hidden[batch.sampled]))

    def _fill_pending(self, batch: StepBatch, plan: StepPlan, places: dict[int, int]) -> None:
        """Put tokens that only the device knows where they belong; they are the last of their chunks."""
        ends = np.cumsum([chunk.count for chunk in plan.chunks]) - 1
        waiting = [i for i, chunk in enumerate(plan.chunks) if _ends_pending(chunk)]
        if waiting:
            sources = np.array([places[id(plan.chunks[i].row)] for i in waiting])
            batch.tokens[0].index_copy_(0, there(ends[waiting], self.device), self._newest[there(sources, self.device)])


def _ends_pending(chunk: Chunk) -> bool:
    return chunk.row.tokens[chunk.start + chunk.count - 1] == PENDING
