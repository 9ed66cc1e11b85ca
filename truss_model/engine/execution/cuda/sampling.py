"""Sampling by Triton kernels: the same tokens as torch_sample, in a few passes over the logits and without a sort."""

import torch
import triton

from truss_model.engine.execution.cuda.choose import choose
from truss_model.engine.execution.cuda.draw import REACHES, gather, measure
from truss_model.engine.execution.cuda.logprobs import logprobs
from truss_model.engine.execution.cuda.scores import score
from truss_model.engine.execution.cuda.shares import MOST_TOKENS
from truss_model.engine.execution.sampling import AT_ONCE, MOST_LOGPROBS, Choice, torch_sample
from truss_model.engine.execution.sampling_state import NUMBERS, Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields

FEW_PARTS = 64  # that a row's vocabulary is split into, where they do not get too large
SMALLEST, LARGEST = 1024, 4096
NEAR = 1024  # tokens of an ordered row that are looked at at a time


def block_for(vocab: int) -> int:
    """Logits of a row that a program reads."""
    block: int = triton.next_power_of_2(triton.cdiv(vocab, FEW_PARTS))
    return min(LARGEST, max(SMALLEST, block))


def warps_for(block: int) -> int:
    """Of a program that reads a block."""
    return 4 if block <= 1024 else 8


def group_for(vocab: int, at_once: int) -> int:
    """Rows that are drawn for at a time, of at most at_once logits, or one.

    A multiple of 16 where it can be: then all groups' tensors are aligned alike, and Triton, which compiles for the
    alignment of its pointers, does it once.
    """
    rows = at_once // vocab
    return rows // 16 * 16 or max(1, rows)


class TritonSampling:
    """A Sample. Rows are drawn for in groups of at most at_once logits, for each of which it takes 20 bytes."""

    def __init__(self, at_once: int = AT_ONCE, block: int | None = None, near: int = NEAR) -> None:
        self._at_once, self._block, self._near = at_once, block, near

    def __call__(self, kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        rows, vocab = logits.shape
        if kind is Kind.GREEDY or vocab > MOST_TOKENS:
            return torch_sample(kind, logits, state, fields)
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        choice = Choice(torch.empty(rows, dtype=torch.int64, device=logits.device))
        if kind is Kind.ALL:
            most = min(MOST_LOGPROBS, vocab)
            choice.own = torch.empty(rows, dtype=torch.float32, device=logits.device)
            choice.top = torch.empty(rows, most, dtype=torch.float32, device=logits.device)
            choice.ids = torch.empty(rows, most, dtype=torch.int64, device=logits.device)
        some = group_for(vocab, self._at_once)
        for first in range(0, rows, some):
            self._sample_some(slice(first, min(first + some, rows)), logits, state, fields, choice)
        return choice

    def _sample_some(
        self, some: slice, logits: torch.Tensor, state: SamplingState, fields: StepFields, choice: Choice
    ) -> None:
        logits, tokens = logits[some], choice.tokens[some]
        rows, vocab = logits.shape
        block = self._block or block_for(vocab)
        parts = triton.cdiv(vocab, block)

        def scratch(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(rows, *shape, dtype=dtype, device=logits.device)

        scores = scratch(vocab, dtype=torch.float32)
        near_keys, near_ids = (scratch(vocab, dtype=torch.int32) for _ in range(2))
        near_shares = scratch(vocab, dtype=torch.int64)
        highest, raw_highest = (scratch(parts, dtype=torch.int64) for _ in range(2))
        raw_sums = scratch(parts, dtype=torch.float32)
        sums = scratch(parts, REACHES.value, dtype=torch.int64)
        counts = scratch(parts, REACHES.value, dtype=torch.int32)
        slots, contexts, masks = (fields.lines[name][some] for name in ("row", "context", "mask"))
        uniform, numbers = fields.uniform[some], state.numbers
        warps = warps_for(block)
        shape = {"VOCAB": vocab, "NUMBERS": len(NUMBERS), "PARTS": triton.next_power_of_2(parts)}
        score[(parts, rows)](
            logits, numbers, state.counts, state.bias, state.masks, state.eos, slots, contexts, masks, scores,
            highest, raw_highest, raw_sums, logits.stride(0), len(state.eos),
            VOCAB=vocab, WORDS=state.masks.shape[1], NUMBERS=len(NUMBERS), BLOCK=block, ALL=choice.own is not None,
            num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
        measure[(parts, rows)](scores, highest, numbers, slots, sums, counts, BLOCK=block, num_warps=warps, **shape)
        gather[(parts, rows)](
            scores, highest, numbers, slots, uniform, sums, counts, near_keys, near_ids, near_shares, tokens,
            BLOCK=block, num_warps=warps, **shape,
        )  # fmt: skip
        choose[(rows,)](
            highest, numbers, slots, uniform, sums, counts, near_keys, near_ids, near_shares, tokens, state.counts,
            parts, BLOCK=self._near, num_warps=8, **shape,
        )  # fmt: skip
        if choice.own is not None and choice.top is not None and choice.ids is not None:
            logprobs[(rows,)](
                logits, numbers, slots, raw_highest, raw_sums, tokens, choice.own[some], choice.top[some],
                choice.ids[some], logits.stride(0), parts, BLOCK=block, MOST=choice.ids.shape[1], **shape,
            )  # fmt: skip
