"""Runs a step: packs its rows into one forward of the transformers model and samples. Owns the KV memory."""

import logging
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.attention import IMPLEMENTATION, PagedAttention, PagedKV, TorchPagedAttention
from truss_model.engine.batch import pack
from truss_model.engine.cpu.build import kernels
from truss_model.engine.cpu.swap import fits, swap
from truss_model.engine.generation import Generation
from truss_model.engine.limits import Limits
from truss_model.engine.params import SamplingParams
from truss_model.engine.row import Row
from truss_model.engine.sampling import Sampled, Sampler
from truss_model.engine.scheduler import Chunk, StepPlan

logger = logging.getLogger(__name__)


class Runner:
    """The model made ready for one device. Everything here happens on the engine thread."""

    def __init__(self, model: PreTrainedModel, limits: Limits, eos_token_ids: frozenset[int]) -> None:
        self.model = model
        self.device = model.device
        self.sampler = Sampler(eos_token_ids)
        library = kernels() if self.device.type == "cpu" and fits(model, limits.page_size) else None
        dtype = torch.float32 if library is not None else model.dtype
        self.kv = PagedKV(model.config, limits.pages, limits.page_size, dtype, self.device)
        self.attention: PagedAttention = TorchPagedAttention(self.kv)
        if library is not None:
            swap(library, model, self.kv, "bfloat16" if model.dtype == torch.bfloat16 else "float32")
            cast(nn.Module, model).float()
        model.set_attn_implementation(IMPLEMENTATION)
        logger.info("CPU kernels: %s; %d KV pages of %d tokens", library is not None, limits.pages, limits.page_size)

    def warm_up(self) -> None:
        """Run one throw-away token through the model, so that the first caller pays for no lazy initialisation."""
        generation = Generation(1, 1, lambda *_: None)
        row = Row(generation, 0, [0], 1, SamplingParams(temperature=0.0), 0, 0.0, pages=[0])
        self.step(StepPlan([Chunk(row, 0, 1, samples=True)]))

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> Sampled:
        """One forward over all rows of the plan; a token for each chunk that samples, in the plan's order."""
        if plan.copies:
            self.kv.copy(plan.copies)
        batch = pack(plan, self.kv.page_size, self.device)
        hidden = self.model.base_model(
            input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, paged=self.attention, batch=batch
        ).last_hidden_state[0]
        rows = [chunk.row for chunk in plan.chunks if chunk.samples]
        if not rows:
            return Sampled([], [])
        logits = cast(torch.Tensor, self.model.lm_head(hidden[batch.sampled]))
        return self.sampler(logits, rows)
