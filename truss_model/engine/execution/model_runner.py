"""Runs steps: packs rows into one forward of the transformers model and samples. Knows plans, not requests."""

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import forward_over
from truss_model.engine.execution.backend import MakeBackend
from truss_model.engine.execution.batch import StepBatch, pack, to_device
from truss_model.engine.execution.decode_graphs import DecodeGraphs
from truss_model.engine.execution.device import make_backend
from truss_model.engine.execution.device_tables import DeviceTables
from truss_model.engine.execution.limits import Limits, measured_limits
from truss_model.engine.execution.mixed_fields import MixedShape
from truss_model.engine.execution.mixed_graphs import MixedGraphs
from truss_model.engine.execution.model_support import use_pages
from truss_model.engine.execution.prompt_scores import PendingScores
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampler import PendingTokens, Sampled, Sampler
from truss_model.engine.execution.sampling import Choice
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields
from truss_model.engine.execution.step_graphs import StepGraphs
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import PENDING, Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)

EVERY_WAY = SamplingParams(
    top_p=0.9, min_p=0.01, presence_penalty=0.1, frequency_penalty=0.1, repetition_penalty=1.1, logit_bias={0: 1.0},
    seed=0, top_logprobs=20,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that is launched. `sampling` are the chunks that get a token, in the order of the tokens."""

    plan: StepPlan
    sampling: list[Chunk]
    began: float
    choice: PendingTokens | None
    scores: PendingScores | None = None

    def result(self) -> Sampled:
        """Wait for its tokens and scores. Raises what the device raises, RuntimeError for too many or few tokens."""
        sampled = Sampled([], []) if self.choice is None else self.choice.result()
        if not len(sampled.tokens) == len(sampled.logprobs) == len(self.sampling):
            raise RuntimeError(f"{len(sampled.tokens)} tokens for {len(self.sampling)} rows")
        sampled.scores = [] if self.scores is None else self.scores.result()
        return sampled

    @property
    def places(self) -> dict[int, int]:
        """By id of a row, the index of its token."""
        return {id(chunk.row): index for index, chunk in enumerate(self.sampling)}


class ModelRunner:
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
        self.limits = limits  # the pages of a GPU are counted anew by warm_up
        self._settings = settings
        with torch.inference_mode():
            self._backend = make(model, limits, settings)
        use_pages(model)
        self.kv = self._backend.kv
        self.layers = self._backend.layers
        self.runs_ahead = self._backend.asynchronous
        # The tokens of the step that is running, for the next one to begin with.
        self._newest = torch.zeros(limits.max_rows, dtype=torch.int64, device=self.device)
        self._slots = RowSlots(limits.max_rows, -(-limits.max_model_len // limits.page_size))
        self._fields = StepFields(limits.max_rows, self.device)
        vocab: int = getattr(getattr(model, "lm_head", None), "out_features", model.config.vocab_size)
        self._state = SamplingState(self._slots, vocab, eos_token_ids, self.device)
        self._sampler = Sampler(self._state, self._fields, self._slots.spare)
        self._graphs = self._make_graphs(mixed=True)

    def _make_graphs(self, *, mixed: bool) -> StepGraphs | None:
        if self._backend.capture is None or not self._settings.cuda_graphs:
            return None
        capture, tables = self._backend.capture, DeviceTables(self._slots, self.device)
        shared = self.kv, self.limits, self._slots, tables
        decode = DecodeGraphs(self.logits, self._choose, *shared, self._fields, self._newest, capture)
        return StepGraphs(decode, MixedGraphs(self.logits, *shared, self._newest, capture) if mixed else None)

    @property
    def precision(self) -> torch.dtype:
        """The coarsest that activations are in."""
        return self._backend.precision or self.model.dtype

    @property
    def recording(self) -> bool:
        """Whether steps are recorded, or are to be."""
        return self._graphs is not None

    @property
    def recorded_sizes(self) -> list[int]:
        """Rows of each recorded step in which all of them decode."""
        return self._graphs.decode_sizes if self._graphs is not None else []

    @property
    def recorded_shapes(self) -> list[MixedShape]:
        """Of the recorded steps with prompts in them."""
        return self._graphs.mixed_shapes if self._graphs is not None else []

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run throw-away tokens through the model, so that the first caller pays for no lazy initialisation.

        On a GPU the largest steps are run too: their kernels are compiled, and the KV cache gets what they leave free.
        """
        for samples in (True, False):  # as of a prompt that goes on in the next step
            self.step(StepPlan([Chunk(_throw_away_row([0], SamplingParams(temperature=0.0)), 0, 1, samples)]))
        self._backend.tune()
        for rows in self._backend.warm_rows:
            decoding = [_throw_away_row([0], SamplingParams(temperature=0.0)) for _ in range(rows)]
            self.step(StepPlan([Chunk(row, 0, 1, samples=True) for row in decoding]))
        if self._backend.memory is not None and self._settings.kv_cache_bytes is None:
            steps = [self._try_largest] if self._graphs is None else [self._try_largest, self._graphs.rehearse]
            kept = 0 if self._graphs is None else self._graphs.kept_rows * self.model.config.vocab_size
            self.limits = measured_limits(
                self.model, self.limits, self._settings.kv_cache_fraction, self._backend.memory, steps,
                kept * self.model.dtype.itemsize, self.kv.resize,
            )  # fmt: skip
        elif self.runs_ahead:
            self._try_largest()

    @torch.inference_mode()
    def record(self) -> None:
        """Record the steps, where they can be and are wanted."""
        if self._graphs is not None:
            self._graphs.capture()

    def drop_recordings(self, *, keep_decode: bool = False) -> None:
        """Give their memory back. From now on all steps are eager, or those with prompts, and decode steps are to be
        recorded anew. Pages that have been counted stay as they are: these steps need less beside them."""
        self._graphs = None
        gc.collect()
        if self._backend.memory is not None:
            self._backend.memory.release()
        if keep_decode:
            self._graphs = self._make_graphs(mixed=False)

    @contextmanager
    def without_recordings(self) -> Iterator[None]:
        """Steps in this block run eagerly."""
        graphs, self._graphs = self._graphs, None
        try:
            yield
        finally:
            self._graphs = graphs

    def _try_largest(self) -> None:
        """A step full of prompts, all rows of which sample in every way: none needs more memory."""
        size = min(self.limits.token_budget, self.limits.pages * self.kv.page_size, self.limits.max_model_len)
        rows = [_throw_away_row([0] * (size - min(self.limits.max_rows, size) + 1), EVERY_WAY)]
        rows += [_throw_away_row([0], EVERY_WAY) for _ in range(min(self.limits.max_rows, size) - 1)]
        rows[0].pages = list(range(-(-len(rows[0].tokens) // self.kv.page_size)))
        self.step(StepPlan([Chunk(row, 0, len(row.tokens), samples=True) for row in reversed(rows)]))

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
        logits, kind = self._forward(plan, sampling, places)
        scores = PendingScores(logits[len(sampling) :], plan.chunks) if len(logits) > len(sampling) else None
        if not sampling:
            return RunningStep(plan, sampling, began, None, scores)
        logits = logits[: len(sampling)]
        if logits.shape != (len(sampling), self._state.vocab):
            raise ValueError(f"{len(sampling)} tokens of {self._state.vocab} need other logits than {logits.shape}")
        choice = self._sample(kind, logits)
        return RunningStep(plan, sampling, began, PendingTokens(choice, [chunk.row for chunk in sampling]), scores)

    def forward(self, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [S, vocab] of a step whose tokens are known, as `launch` makes them; a recording's tokens, too."""
        logits, kind = self._forward(plan, [chunk for chunk in plan.chunks if chunk.samples], {})
        if self._graphs is None or not self._graphs.ready:
            return logits, None
        return logits, self._sample(kind, logits).tokens[: len(logits)]

    def pack(self, plan: StepPlan) -> StepBatch:
        """The tensors of a step whose tokens are known."""
        return self._pack(plan, self._slots.hold([chunk.row for chunk in plan.chunks]))

    def _forward(self, plan: StepPlan, sampling: list[Chunk], places: dict[int, int]) -> tuple[torch.Tensor, Kind]:
        """Logits, and how the chunks that sample are to be sampled from the first of them."""
        slots = self._slots.hold([chunk.row for chunk in plan.chunks])
        graphs = self._graphs if self._graphs is not None and self._graphs.ready else None
        recorded = graphs.feed(plan, places, slots) if graphs is not None else None
        kind = Kind.GREEDY
        if sampling:
            at = slots if len(sampling) == len(slots) else self._slots.hold([chunk.row for chunk in sampling])
            ends = np.fromiter((chunk.start + chunk.length for chunk in sampling), np.int64, len(sampling))
            kind = self._sampler.prepare([chunk.row for chunk in sampling], at, ends)
            self._fields.upload()
        if recorded is not None:
            return recorded(), kind
        batch = self._pack(plan, slots)
        self._fill_pending(batch, plan, places)
        return self.logits(batch), kind

    def _sample(self, kind: Kind, logits: torch.Tensor) -> Choice:
        self._sampler.fill_masks()
        if self._graphs is not None and self._graphs.ready:
            return self._graphs.sample(kind, logits)
        return self._choose(kind, logits)

    def _choose(self, kind: Kind, logits: torch.Tensor) -> Choice:
        choice = self._backend.sample(kind, logits, self._state, self._fields)
        if self.runs_ahead:
            self._newest[: len(logits)] = choice.tokens
        return choice

    def _pack(self, plan: StepPlan, slots: "np.ndarray[Any, np.dtype[np.int64]]") -> StepBatch:
        return pack(plan, self._slots.block_tables(slots), self.kv.page_size, self.device)

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """[S, vocab], of the tokens in batch.sampled."""
        if self._backend.forward is not None:
            return self._backend.forward(batch)
        with forward_over(self._backend.attention, batch):
            # The model's own forward to its end: some scale or cap what comes out of the head.
            made = self.model(
                input_ids=batch.tokens,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=batch.sampled,
            )
        return cast(torch.Tensor, made.logits[0])

    def _fill_pending(self, batch: StepBatch, plan: StepPlan, places: dict[int, int]) -> None:
        """Put tokens that only the device knows where they belong; they are the last of their chunks."""
        waiting = [i for i, chunk in enumerate(plan.chunks) if _ends_pending(chunk)]
        if waiting:
            ends = np.cumsum([chunk.length for chunk in plan.chunks]) - 1
            sources = np.array([places[id(plan.chunks[i].row)] for i in waiting])
            batch.tokens[0].index_copy_(
                0, to_device(ends[waiting], self.device), self._newest[to_device(sources, self.device)]
            )


def _throw_away_row(tokens: list[int], params: SamplingParams) -> Row:
    """On page 0, which belongs to nobody yet."""
    return Row(Generation(len(tokens), 1, lambda *_: None), 0, tokens, len(tokens), params, 0, pages=[0])


def _ends_pending(chunk: Chunk) -> bool:
    return chunk.row.tokens[chunk.start + chunk.length - 1] == PENDING
