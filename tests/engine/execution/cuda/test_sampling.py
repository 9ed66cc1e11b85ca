"""The sampling kernels where random batches do not lead: integers, dtypes, strides, ties, and what is no number."""

import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.execution.sampling_step import SamplingStep
from tests.engine.execution.test_sampling_batches import Some, made_logits, made_row
from truss_model.engine.execution.cuda.sampling import LARGEST, SMALLEST, TritonSampling, block_for, group_for
from truss_model.engine.execution.cuda.shares import MOST_TOKENS, ordered, shares_of, unordered
from truss_model.engine.execution.sampler import Sampled
from truss_model.engine.execution.sampling import AT_ONCE, Sample, torch_sample
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row

# Triton's interpreter under numpy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning"),
]

EOS = frozenset({2})
VOCAB = 70  # of three blocks of 32
SMALL = TritonSampling(block=32, near=16)
WAYS = (
    SamplingParams(temperature=0.0, presence_penalty=0.1),
    SamplingParams(),
    SamplingParams(temperature=0.5, min_p=0.2),
    SamplingParams(top_p=0.8),
    SamplingParams(top_k=7, top_p=0.9),
    SamplingParams(temperature=2.0, top_k=60, top_logprobs=3),
)


class Nothing:
    def fill(self, words: npt.NDArray[np.int32]) -> None:
        words[:] = 0

    def accept(self, token_id: int) -> None:
        raise AssertionError


def row(params: SamplingParams, seed: int = 0) -> Row:
    made = Row(Generation(3, 1, lambda *_: None), 0, [1, 7, 7], 1, params, 0)
    made.random = random.Random(seed)
    return made


def rows_of_every_kind(seed: int = 0) -> list[Row]:
    return [row(params, seed + i) for i, params in enumerate(WAYS)]


def sampled(sample: Sample, logits: torch.Tensor, rows: list[Row]) -> Sampled:
    return SamplingStep(EOS, logits.shape[1], sample=sample)(logits, rows)


def same(logits: torch.Tensor, rows: list[Row]) -> list[int]:
    states = [row.random.getstate() for row in rows]
    wanted = sampled(torch_sample, logits, rows).tokens
    for row, state in zip(rows, states, strict=True):
        row.random.setstate(state)
    assert sampled(SMALL, logits, rows).tokens == wanted
    return wanted


@triton.jit
def _shares(distances, out, keys, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, COUNT)
    x = tl.load(distances + at)
    tl.store(out + at, shares_of(x))
    tl.store(keys + at, ordered(unordered(ordered(-x + 0.0))))


def test_shares_are_within_the_last_bits_of_what_float64_gives_and_keys_in_the_order_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    distances = torch.cat([
        torch.tensor([0.0, 1e-30, 31.1, 31.2, 32.0, 1e9, float("inf"), 0.0]),
        torch.rand(4088, generator=generator) * 32 * torch.tensor([1, 1e-2, 1e-7, 1]).repeat(1022),
    ])  # fmt: skip
    shares, keys = torch.empty(4096, dtype=torch.int64), torch.empty(4096, dtype=torch.int32)
    _shares[(1,)](distances, shares, keys, COUNT=4096)
    exact = (-distances.double()).exp() * 2.0**44
    assert ((shares - exact).abs() <= 0.51 + exact * 2.0**-43).all()
    assert shares[:2].tolist() == [1 << 44] * 2 and shares[4:7].tolist() == [0] * 3
    assert torch.equal(keys.argsort(stable=True), (-distances).argsort(stable=True))


@settings(max_examples=8)
@given(
    st.integers(0, 2**32),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(22, 150),
    st.sampled_from(["dense", "strided", "transposed"]),
)
def test_random_rows_of_every_dtype_and_stride(seed: int, dtype: torch.dtype, vocab: int, layout: str) -> None:
    rng = random.Random(seed)
    logits = made_logits(rng, 3, vocab).to(dtype)
    if layout == "strided":
        logits = torch.cat([logits, logits + 5], 1)[:, :vocab]
    elif layout == "transposed":
        logits = logits.t().contiguous().t()
    same(logits, [made_row(rng, vocab) for _ in range(3)])


def test_a_row_gets_the_same_token_alone_and_in_a_batch() -> None:
    logits = made_logits(random.Random(3), len(WAYS), VOCAB)
    together = sampled(SMALL, logits, rows_of_every_kind()).tokens
    alone = [sampled(SMALL, logits[i : i + 1], [one]).tokens[0] for i, one in enumerate(rows_of_every_kind())]
    large = TritonSampling(block=128, near=64)
    assert together == alone == sampled(large, logits, rows_of_every_kind()).tokens


@pytest.mark.parametrize("levels", [1, 2], ids=["all equal", "two values"])
def test_equal_scores_are_taken_by_the_lower_id_first(levels: int) -> None:
    logits = (torch.arange(VOCAB) % levels).float().expand(len(WAYS), -1)
    tokens = {tuple(same(logits, rows_of_every_kind(seed))) for seed in (0, 100)}
    assert len(tokens) == 2


def test_what_begins_exactly_at_top_p_is_cut_off() -> None:
    logits = torch.full((8, VOCAB), float("-inf"))
    logits[:, [5, 31, 32, 60]] = 1.5
    assert set(same(logits, [row(SamplingParams(top_p=0.5), seed) for seed in range(8)])) == {5, 31}


def test_rows_without_a_finite_highest_score_get_the_first_of_the_highest() -> None:
    logits = torch.zeros(len(WAYS), VOCAB)
    logits[:, 40] = logits[:, 67] = float("inf")
    assert same(logits, rows_of_every_kind()) == [40] * len(WAYS)
    assert same(torch.full((len(WAYS), VOCAB), float("-inf")), rows_of_every_kind()) == [0] * len(WAYS)
    masked = rows_of_every_kind()
    for one in masked:
        one.constraint = Nothing()
    assert same(torch.randn(len(WAYS), VOCAB), masked) == [0] * len(WAYS)


def test_forbidden_tokens_and_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((len(WAYS), VOCAB), float("-inf"))
    logits[:, [3, 33, 69]] = torch.tensor([0.5, 0.0, 0.1])
    assert set(same(logits, rows_of_every_kind())) <= {3, 33, 69}
    rows = rows_of_every_kind()
    for one in rows:
        one.constraint = Some(4)
    same(torch.randn(len(WAYS), VOCAB, generator=torch.Generator().manual_seed(0)), rows)


def test_rows_of_no_numbers_end_and_get_a_token() -> None:
    logits = torch.randn(len(WAYS), VOCAB)
    logits[:, 50] = float("nan")
    assert sampled(SMALL, logits, rows_of_every_kind()).tokens == [50] * len(WAYS)
    tokens = sampled(SMALL, torch.full((len(WAYS), VOCAB), float("nan")), rows_of_every_kind()).tokens
    assert all(0 <= token < VOCAB for token in tokens)


@pytest.mark.parametrize("vocab", [1, 1000, 32768, 50257, 128256, 262208, MOST_TOKENS])
def test_blocks_are_of_sizes_that_kernels_are_compiled_for(vocab: int) -> None:
    assert SMALLEST <= block_for(vocab) <= LARGEST
    assert (1 << 44) * MOST_TOKENS < 1 << 63


@pytest.mark.parametrize("vocab", [1000, 32003, 128256, 262144])
def test_groups_of_rows_begin_at_addresses_of_one_alignment(vocab: int) -> None:
    group = group_for(vocab, AT_ONCE)
    assert group > 0
    assert group % 16 == 0
    assert group * vocab <= AT_ONCE


def test_a_vocabulary_of_which_few_rows_fit_is_drawn_for_in_groups_of_them() -> None:
    assert [group_for(vocab, AT_ONCE) for vocab in (AT_ONCE // 3, 2 * AT_ONCE)] == [3, 1]
