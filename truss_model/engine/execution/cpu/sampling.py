"""Sampling by the C kernels: the same tokens as torch_sample, each row in a few passes over its logits."""

import ctypes
import weakref

import torch

from truss_model.engine.execution.sampling import MOST_LOGPROBS, Choice
from truss_model.engine.execution.sampling_state import NUMBERS, Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields

NO_TENANCY = -2


class KernelSampling:
    """A Sample for the CPU. Of each slot it knows, for as long as one row has it, which tokens' scores are changed."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._sample = library.sample
        self._of: weakref.ref[SamplingState] | None = None
        self._known: tuple[torch.Tensor, ...] = ()

    def __call__(self, kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        logits = logits.float().contiguous()
        rows, vocab = logits.shape
        choice = Choice(torch.empty(rows, dtype=torch.int64))
        most = min(MOST_LOGPROBS, vocab)
        if kind is Kind.ALL:
            choice.own, choice.top = torch.empty(rows), torch.empty(rows, most)
            choice.ids = torch.empty(rows, most, dtype=torch.int64)
        numbers = None if kind is Kind.GREEDY else state.numbers
        by_slot = (numbers, state.counts, state.bias, state.masks, state.eos, *self._known_of(state))
        by_row = (*(fields.lines[name] for name in ("row", "context", "mask")), fields.uniform)
        made = (choice.tokens, choice.own, choice.top, choice.ids)
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in (logits, *by_slot, *by_row, *made)]
        self._sample(*pointers, rows, vocab, len(NUMBERS), len(state.eos), most)
        return choice

    def _known_of(self, state: SamplingState) -> tuple[torch.Tensor, ...]:
        """The slots' tenancies; those for which the changed tokens are known; a bit for each of them."""
        if self._of is None or self._of() is not state:
            tenancies = torch.from_numpy(state.tenancies)
            self._of = weakref.ref(state)
            self._known = (tenancies, torch.full_like(tenancies, NO_TENANCY), torch.zeros_like(state.masks))
        return self._known
