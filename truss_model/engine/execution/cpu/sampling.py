"""Sampling by the C kernels: the same tokens as torch_sample, each row in a few passes over its logits."""

import ctypes

import torch

from truss_model.engine.execution.sampling import MOST_LOGPROBS, Choice
from truss_model.engine.execution.sampling_state import NUMBERS, Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields


class KernelSampling:
    """A Sample for the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._sample = library.sample

    def __call__(self, kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        logits = logits.float().contiguous()
        rows, vocab = logits.shape
        choice = Choice(torch.empty(rows, dtype=torch.int64))
        most = min(MOST_LOGPROBS, vocab)
        if kind is Kind.ALL:
            choice.own, choice.top = torch.empty(rows), torch.empty(rows, most)
            choice.ids = torch.empty(rows, most, dtype=torch.int64)
        by_slot = (state.numbers, state.counts, state.bias, state.masks, state.eos)
        by_row = (*(fields.lines[name] for name in ("row", "context", "mask")), fields.uniform)
        made = (choice.tokens, choice.own, choice.top, choice.ids)
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in (logits, *by_slot, *by_row, *made)]
        if kind is Kind.GREEDY:
            pointers[1] = None
        self._sample(*pointers, rows, vocab, len(NUMBERS), len(state.eos), most)
        return choice
