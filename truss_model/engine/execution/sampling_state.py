"""What sampling has to know of every row for as long as it lives, on the device, by the row's slot.

The host writes a slot when its row comes; from then on the token counts follow the row on the device.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.batch import to_device
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.step_fields import upload
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row

NUMBERS = (
    "temperature", "top_p", "least", "presence", "frequency", "repetition", "top_k", "min_length", "logprobs",
    "counted", "biased",
)  # fmt: skip
IN_PROMPT = 1 << 24  # added to the count of a token that the prompt has


class Kind(IntEnum):
    """What a step's rows need, each with all that is before it."""

    GREEDY = 0  # the most likely token
    DRAW = 1  # temperature, min_p
    ALL = 2


def kind_of(row: Row) -> Kind:
    p = row.params
    if (
        p.presence_penalty
        or p.frequency_penalty
        or p.repetition_penalty != 1.0
        or p.logit_bias
        or p.min_tokens
        or p.top_logprobs is not None
        or row.constraint is not None
    ):
        return Kind.ALL
    if p.greedy:
        return Kind.GREEDY
    return Kind.ALL if p.top_k or p.top_p < 1 else Kind.DRAW


class SamplingState:
    """Tensors by slot, the last slot that of padding rows.

    numbers: float32 [slots, len(NUMBERS)]; temperature 0: greedy; least: logarithm of min_p; min_length: tokens before
    the end may come; logprobs -1: none; counted, biased: 1 if the row has penalties, logit_bias. counts: int32 [slots,
    vocab], how often a token was generated, IN_PROMPT more if the prompt has it; kept for counted rows. bias: float32
    [slots, vocab], kept for biased rows. masks: int32 [slots, ceil(vocab/32)], of the constrained rows of a step, bit
    i%32 of word i//32 allows token i. eos: int64 [E]. tenancies: int64 [slots], on the host: RowSlots' of the rows that
    the slots describe.
    """

    def __init__(self, slots: RowSlots, vocab: int, eos_token_ids: frozenset[int], device: torch.device) -> None:
        rows = slots.spare + 1
        self.vocab, self.device = vocab, device
        self.numbers = torch.zeros(rows, len(NUMBERS), device=device)
        self.counts = torch.zeros(rows, vocab, dtype=torch.int32, device=device)
        self.bias = torch.zeros(rows, vocab, device=device)
        self.masks = torch.zeros(rows, -(-vocab // 32), dtype=torch.int32, device=device)
        self.eos = torch.tensor(sorted(token for token in eos_token_ids if token < vocab), dtype=torch.int64)
        self.eos = self.eos.to(device)
        self.kinds: npt.NDArray[np.int8] = np.zeros(rows, np.int8)
        self.draws: npt.NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self._slots = slots
        self.tenancies = np.full(rows, -1, np.int64)
        self._write([slots.spare], [_numbers(SamplingParams(temperature=0.0), 0, constrained=False)])

    def enter(self, rows: Sequence[Row], slots: npt.NDArray[np.int64]) -> None:
        """Write the slots of rows that have come since the last step. All their tokens must be known."""
        new = np.flatnonzero(self.tenancies[slots] != self._slots.tenancies[slots]).tolist()
        if not new:
            return
        arrived = {int(slots[i]): rows[i] for i in new}
        self._write(
            list(arrived),
            [_numbers(row.params, row.prompt_tokens, row.constraint is not None) for row in arrived.values()],
        )
        for slot, row in arrived.items():
            self.kinds[slot], self.draws[slot] = kind_of(row), not row.params.greedy
            if _counted(row.params):
                upload(self._count(row), self.counts[slot])
            if row.params.logit_bias:
                bias = np.zeros(self.vocab, np.float32)
                bias[list(row.params.logit_bias)] = list(row.params.logit_bias.values())
                upload(bias, self.bias[slot])
            self.tenancies[slot] = self._slots.tenancies[slot]

    def _write(self, slots: list[int], numbers: list[list[float]]) -> None:
        index = to_device(np.array(slots, np.int64), self.device)
        self.numbers.index_copy_(0, index, to_device(np.array(numbers, np.float32), self.device))

    def _count(self, row: Row) -> npt.NDArray[np.int32]:
        prompt, generated = (np.array(part, np.int64) for part in _parts(row))
        counts = np.bincount(generated, minlength=self.vocab).astype(np.int32)
        counts[prompt] += IN_PROMPT
        return counts


def _parts(row: Row) -> tuple[list[int], list[int]]:
    return row.tokens[: row.prompt_tokens], row.tokens[row.prompt_tokens :]


def _counted(p: SamplingParams) -> bool:
    return bool(p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1.0)


def _numbers(p: SamplingParams, prompt_tokens: int, constrained: bool) -> list[float]:
    """In the order of NUMBERS."""
    # A grammar says itself when an answer may end, and may leave nothing but the end.
    min_length = prompt_tokens + p.min_tokens if p.min_tokens and not constrained else 0
    return [
        0.0 if p.greedy else p.temperature,
        p.top_p,
        float(np.log(np.float32(max(p.min_p, 1e-30)))),
        p.presence_penalty,
        p.frequency_penalty,
        p.repetition_penalty,
        p.top_k,
        min_length,
        -1 if p.top_logprobs is None else p.top_logprobs,
        _counted(p),
        bool(p.logit_bias),
    ]
