"""The sampling of a step alone: rows and logits in, tokens out."""

from collections.abc import Sequence

import numpy as np
import torch

from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampler import PendingTokens, Sampled, Sampler
from truss_model.engine.execution.sampling import Sample, process, torch_sample
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields
from truss_model.engine.scheduling.row import Row


class SamplingStep:
    """Keeps what a runner keeps between steps."""

    def __init__(self, eos: frozenset[int], vocab: int, rows: int = 100, sample: Sample = torch_sample) -> None:
        device = torch.device("cpu")
        self.slots = RowSlots(rows, 1)
        self.fields = StepFields(rows, device)
        self.state = SamplingState(self.slots, vocab, eos, device)
        self.sampler = Sampler(self.state, self.fields, self.slots.spare)
        self.sample = sample
        self.tokens: list[int] = []

    def __call__(self, logits: torch.Tensor, rows: Sequence[Row]) -> Sampled:
        kind = self._prepare(rows)
        made = PendingTokens(self.sample(kind, logits, self.state, self.fields), rows).result()
        self.tokens = made.tokens
        return made

    def process(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """What torch_sample draws from."""
        self._prepare(rows)
        return process(logits, self.state, self.fields)

    def _prepare(self, rows: Sequence[Row]) -> Kind:
        lengths = np.array([len(row.tokens) for row in rows])
        kind = self.sampler.prepare(rows, self.slots.hold(rows), lengths)
        self.fields.upload()
        self.sampler.fill_masks()
        return kind
