"""Whether the sampling kernels do on this device what torch_sample does; where they do not, torch_sample stays."""

import logging
import random
import time

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.fault_record import poisons
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampler import Sampler
from truss_model.engine.execution.sampling import Choice, Sample, torch_sample
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row

logger = logging.getLogger(__name__)

FAILED = "Sampling by plain torch, as its kernels fail: %s."
EOS = frozenset({2, 5})
DRAWS = (
    SamplingParams(temperature=0.0),
    SamplingParams(),
    SamplingParams(temperature=0.7, min_p=0.01),
    SamplingParams(temperature=3.0),
)
WAYS = (
    *DRAWS,
    SamplingParams(top_p=0.9),
    SamplingParams(temperature=2.0, top_p=0.999, top_logprobs=20),
    SamplingParams(top_p=0.0, top_logprobs=0),
    SamplingParams(top_k=5, top_logprobs=3),
    SamplingParams(temperature=2.0, top_k=1000),
    SamplingParams(top_k=50, top_p=0.8),
    SamplingParams(temperature=1.5, top_k=200, top_p=0.95, min_p=0.02),
    SamplingParams(temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=-0.3),
    SamplingParams(top_p=0.9, repetition_penalty=0.8, frequency_penalty=0.7),
    SamplingParams(presence_penalty=-1.5, logit_bias={3: 7.0, 4: -100.0}, top_logprobs=20),
    SamplingParams(temperature=0.8, top_p=0.95, logit_bias={1: 5.0}, min_tokens=99),
)


class CheckedSampling:
    """A Sample: torch_sample, until `check` has seen that the kernels do the same."""

    def __init__(self, kernels: Sample, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        """vocab, dtype, device: of the logits to come."""
        self._kernels, self._vocab, self._dtype, self._device = kernels, vocab, dtype, device
        self.sample: Sample = torch_sample

    def __call__(self, kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        return self.sample(kind, logits, state, fields)

    def check(self) -> None:
        """Compare and choose. Raises only what leaves the process without its GPU."""
        began = time.monotonic()
        try:
            difference = _difference(self._kernels, self._vocab, self._dtype, self._device)
        except Exception as error:  # not kept: its frames hold memory that is about to be measured
            if poisons(error):
                raise
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.warning(FAILED, what, exc_info=True)
            return
        if difference:
            logger.warning(FAILED, difference)
            return
        self.sample = self._kernels
        logger.info("Sampling by kernels, compared with plain torch in %.1f s.", time.monotonic() - began)


class _Allowed:
    """A constraint that allows tokens without regularity, or none."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        words[:] = 0
        if self._seed is not None:
            words[:] = np.random.default_rng(self._seed).integers(-(2**31), 2**31, len(words), np.int32)

    def accept(self, token_id: int) -> None:
        pass


def _difference(sample: Sample, vocab: int, dtype: torch.dtype, device: torch.device) -> str:
    """What the kernels do otherwise with made-up logits, and rows of every kind; empty if nothing."""
    rng = random.Random(0)
    generator = torch.Generator(device).manual_seed(0)
    rows = [_row(rng, params, vocab) for params in WAYS]
    for constraint in (_Allowed(1), _Allowed(2), _Allowed(None)):
        rows.append(_row(rng, SamplingParams(top_p=rng.choice([0.9, 1.0]), top_logprobs=1), vocab))
        rows[-1].constraint = constraint
    slots = RowSlots(len(rows), 1)
    state, fields = SamplingState(slots, vocab, EOS, device), StepFields(len(rows), device)
    sampler = Sampler(state, fields, slots.spare)
    for spread in (4.0, 1.0):
        for some in (rows[: len(DRAWS)], rows):
            logits = torch.randn(len(some), vocab, generator=generator, device=device).mul_(spread).to(dtype)
            logits[1::8] = 1.0  # all equal
            logits[-2, vocab // 2] = torch.inf
            kind = sampler.prepare(some, slots.hold(some), np.array([len(row.tokens) for row in some]))
            fields.upload()
            sampler.fill_masks()
            difference = _step_difference(sample, kind, logits, state, fields, some)
            if difference:
                return difference
    return ""


def _step_difference(
    sample: Sample, kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields, rows: list[Row]
) -> str:
    before = state.counts.clone()
    wanted = torch_sample(kind, logits, state, fields)
    counts = state.counts.clone()
    state.counts.copy_(before)
    made = sample(kind, logits, state, fields)
    others = (made.tokens != wanted.tokens).nonzero()[:, 0].tolist()
    if others:
        return f"{len(others)} of {len(rows)} rows get other tokens, the first by {rows[others[0]].params}"
    if not torch.equal(state.counts, counts):
        return "tokens are counted otherwise"
    raw = logits.float().log_softmax(-1)
    for i, row in enumerate(rows):
        most = row.params.top_logprobs
        if most is None or made.own is None or made.top is None or made.ids is None:
            continue
        got = torch.cat([made.own[i : i + 1], made.top[i, :most], raw[i, made.ids[i, :most]]])
        best = raw[i].topk(most).values
        # An infinite logit makes NaN of them all.
        if not torch.allclose(got, torch.cat([raw[i, made.tokens[i : i + 1]], best, best]), atol=1e-3, equal_nan=True):
            return f"other log-probabilities of a row of {row.params}"
    return ""


def _row(rng: random.Random, params: SamplingParams, vocab: int) -> Row:
    tokens = [rng.randrange(vocab) for _ in range(40)]
    row = Row(Generation(20, 1, lambda *_: None), 0, tokens, 20, params, 0)
    row.random = random.Random(rng.random())
    return row
