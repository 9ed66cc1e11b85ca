"""Random batches, in which rows come, leave, change places and are preempted, against the definitions of sampling."""

import functools
import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.engine.execution.sampling_reference import logprobs, next_token
from tests.engine.execution.sampling_step import SamplingStep
from truss_model.engine.execution.cpu.build import kernels
from truss_model.engine.execution.cpu.sampling import KernelSampling
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.sampling import MOST_LOGPROBS, Sample, torch_sample
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

EOS = frozenset({2, 5})
BATCHES, GROUPS = 10_000, 10
INTERPRETED = 24  # batches of a group, each of whose rows takes Triton's interpreter a tenth of a second


def kernel_sample() -> Sample:
    library = kernels()
    if library is None:
        pytest.skip("no C compiler")
    return KernelSampling(library)


SAMPLES: dict[str, Callable[[], Sample]] = {
    "torch": lambda: torch_sample,
    "torch, some rows at once": lambda: functools.partial(torch_sample, at_once=250),
    "C": kernel_sample,
    "Triton": lambda: TritonSampling(block=64, near=128),
    "Triton, some rows and few tokens at once": lambda: TritonSampling(at_once=500, block=128, near=32),
}


class Some:
    """A constraint that allows some tokens, others after each token."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = self._next()

    def _next(self) -> npt.NDArray[np.int32]:
        bits = [self._random.randrange(-(2**31), 2**31) | 1 << self._random.randrange(31) for _ in range(64)]
        return np.array(bits, np.int64).astype(np.int32)

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        words[:] = self._words[: len(words)]

    def accept(self, token_id: int) -> None:
        assert self._words[token_id // 32] >> token_id % 32 & 1
        self._words = self._next()


def made_row(rng: random.Random, vocab: int) -> Row:
    def maybe(value: float, otherwise: float, share: float = 0.5) -> float:
        return value if rng.random() < share else otherwise

    params = SamplingParams(
        temperature=maybe(rng.uniform(0.05, 3), 0.0, 0.8),
        top_p=maybe(rng.random(), 1.0),
        top_k=int(maybe(rng.randrange(1, 2 * vocab), 0)),
        min_p=maybe(rng.random() ** 4, 0.0, 0.3),
        presence_penalty=maybe(rng.uniform(-2, 2), 0.0),
        frequency_penalty=maybe(rng.uniform(-2, 2), 0.0),
        repetition_penalty=maybe(rng.uniform(0.5, 2), 1.0, 0.3),
        logit_bias={rng.randrange(vocab): rng.uniform(-100, 100) for _ in range(int(maybe(rng.randrange(9), 0)))},
        min_tokens=int(maybe(rng.randrange(5), 0)),
        top_logprobs=rng.choice([None, None, 0, 3, 20]),
    )
    if rng.random() < 0.3:
        params = SamplingParams(temperature=params.temperature, min_p=params.min_p)
    prompt = [rng.randrange(vocab) for _ in range(rng.randrange(1, 6))]
    row = Row(Generation(len(prompt), 1, lambda *_: None), 0, prompt, len(prompt), params, 0)
    row.random = random.Random(rng.random())
    row.constraint = Some(rng.randrange(100)) if rng.random() < 0.2 else None
    return row


def made_logits(rng: random.Random, rows: int, vocab: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    logits = torch.randn(rows, vocab, generator=generator) * rng.choice([0.01, 1, 4, 10])
    return logits.round() / 2 if rng.random() < 0.3 else logits  # many equal ones


def check(step: SamplingStep, logits: torch.Tensor, rows: list[Row]) -> None:
    wanted = [next_token(line.numpy(), row, EOS) for line, row in zip(logits, rows, strict=True)]
    before = logits.clone()
    made = step(logits, rows)
    assert made.tokens == wanted
    assert torch.equal(before, logits)
    for line, row, token, got in zip(logits, rows, made.tokens, made.logprobs, strict=True):
        most = row.params.top_logprobs
        assert (got is None) == (most is None)
        if got is not None and most is not None:
            own = logprobs(line.numpy())
            assert got.logprob == pytest.approx(own[token], abs=1e-4)
            assert len(got.top) == min(most, len(own))
            assert [value for _, value in got.top] == pytest.approx(np.sort(own)[::-1][:most].tolist(), abs=1e-4)
            assert [value for _, value in got.top] == pytest.approx([own[i] for i, _ in got.top], abs=1e-4)
            assert len({i for i, _ in got.top}) == len(got.top)


def take(step: SamplingStep, rows: list[Row]) -> None:
    """The tokens that the step gave."""
    for row, token in zip(rows, step.tokens, strict=True):
        row.tokens.append(token)
        assert row.accept(token) is None


@pytest.mark.parametrize(
    ("sample", "group"),
    [(name, i) for name in SAMPLES for i in range(1 if "some" in name or "Triton" in name else GROUPS)],
)
def test_every_token_is_the_one_that_the_definitions_give(sample: str, group: int) -> None:
    rng = random.Random(group)
    for _ in range((INTERPRETED if "Triton" in sample else BATCHES // GROUPS) // 8):
        vocab = rng.randrange(MOST_LOGPROBS, 200)
        step = SamplingStep(EOS, vocab, rows=8, sample=SAMPLES[sample]())
        rows: list[Row] = []
        for _ in range(8):
            rows = [row for row in rows if rng.random() < 0.8][: rng.randrange(1, 9)]
            rows += [made_row(rng, vocab) for _ in range(rng.randrange(9 - len(rows)))]
            rng.shuffle(rows)
            if not rows:
                rows = [made_row(rng, vocab)]
            for row in rows:
                row.admissions += rng.random() < 0.1
            check(step, made_logits(rng, len(rows), vocab), rows)
            take(step, rows)


@pytest.mark.parametrize("sample", ["torch", "C"])
def test_vocabularies_of_several_blocks(sample: str) -> None:
    rng = random.Random(2)
    for _ in range(30):
        vocab = rng.randrange(500, 2049)
        step = SamplingStep(EOS, vocab, rows=8, sample=SAMPLES[sample]())
        rows = [made_row(rng, vocab) for _ in range(8)]
        for _ in range(4):
            check(step, made_logits(rng, 8, vocab), rows)
            take(step, rows)


def shares(logits: torch.Tensor) -> npt.NDArray[np.float64]:
    """The differences are rounded to float32, as in the definition."""
    return np.exp((logits - logits.max()).double().numpy())


class Uniform(random.Random):
    """Gives one number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    def random(self) -> float:
        return self._number


def new_row(params: SamplingParams, number: float = 0.5) -> Row:
    """With a prompt of one token; draws with this number."""
    row = Row(Generation(1, 1, lambda *_: None), 0, [1], 1, params, 0)
    row.random = Uniform(number)
    return row


@pytest.mark.parametrize("sample", ["torch", "C"])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=2000), SamplingParams(top_p=0.9999)])
def test_a_number_beside_a_bound_gets_the_token_of_its_side(sample: str, params: SamplingParams) -> None:
    """Float32 cannot tell these sides, the definition's float64 can."""
    vocab, rng = 2048, random.Random(3)
    step = SamplingStep(EOS, vocab, sample=SAMPLES[sample]())
    for logits in torch.randn(20, vocab, generator=torch.Generator().manual_seed(3)) * 2:
        ids = np.arange(vocab) if params == SamplingParams() else np.argsort(-logits.numpy(), kind="stable")
        upto = shares(logits)[ids].cumsum()
        if params.top_p < 1:
            kept = upto[: np.searchsorted(upto, np.float32(params.top_p) * np.float64(upto[-1])) + 1]
        else:
            kept = upto[: params.top_k or None]
        at = rng.randrange(len(kept) // 2)
        wanted, rows = [], list[Row]()
        for side in (-1, 1):
            rows.append(new_row(params, kept[at] / kept[-1] * (1 + side * 1e-10)))
            wanted.append(int(ids[at + (side > 0)]))
        assert step(logits.expand(2, -1), rows).tokens == wanted


@pytest.mark.parametrize("sample", ["torch", "C"])
def test_a_top_p_beside_a_bound_cuts_on_its_side(sample: str) -> None:
    vocab, rng = 2048, random.Random(4)
    step = SamplingStep(EOS, vocab, sample=SAMPLES[sample]())
    for logits in torch.randn(300, vocab, generator=torch.Generator().manual_seed(5)) * 2:
        order = np.argsort(-logits.numpy(), kind="stable")
        upto = shares(logits)[order].cumsum()
        top_p = float(np.float32(upto[rng.randrange(100, 600)] / upto[-1]))
        row = new_row(SamplingParams(top_p=top_p), 1 - 2**-53)  # the last token that is kept
        assert step(logits[None], [row]).tokens == [int(order[np.searchsorted(upto, top_p * upto[-1])])]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.75])
def test_a_top_p_that_equal_scores_reach_exactly_cuts_there(sample: str, top_p: float) -> None:
    """The others' shares, some 1e-17 each, are lost in float64 when they are added one by one to the first ones."""
    logits = torch.full((1, 300), -39.0)
    logits[0, [5, 7, 100, 299]] = 0.0
    step = SamplingStep(EOS, 300, sample=SAMPLES[sample]())
    row = new_row(SamplingParams(top_p=top_p), 1 - 2**-53)
    assert step(logits, [row]).tokens == [{0.25: 5, 0.5: 7, 0.75: 100}[top_p]]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("beside", [SamplingParams(), SamplingParams(top_logprobs=1)])
def test_scores_that_overflow_give_the_first_of_them_whatever_the_other_rows_ask_for(
    sample: str, beside: SamplingParams
) -> None:
    logits = torch.zeros(2, 40)
    logits[:, 3], logits[:, 7] = 2e38, 3e38
    step = SamplingStep(EOS, 40, sample=SAMPLES[sample]())
    rows = [new_row(SamplingParams(temperature=0.5)), new_row(beside)]
    assert step(logits, rows).tokens == [3, 7]


@pytest.mark.parametrize("sample", SAMPLES)
def test_scores_that_are_equally_far_from_the_highest_in_float32_stay_in_their_order(sample: str) -> None:
    """And -0 is 0."""
    logits = torch.tensor([[*(-1e-30 * i for i in range(20)), 1.0, *(1e-30 * i for i in range(20))]])
    step = SamplingStep(EOS, 41, sample=SAMPLES[sample]())
    row = new_row(SamplingParams(top_k=30))
    order = [20, *range(40, 21, -1), 0, 21, *range(1, 20)]
    assert order == logits[0].sort(descending=True, stable=True).indices.tolist()
    for at in range(30):
        row.random = Uniform((math.e + at - 0.5) / (math.e + 29))
        assert step(logits, [row]).tokens == [order[at]]


@pytest.mark.parametrize("sample", ["torch", "C"])
def test_an_offset_of_all_logits_leaves_the_log_probabilities(sample: str) -> None:
    """The logarithm of the sum is no difference of large numbers."""
    logits = torch.randn(1, 600, generator=torch.Generator().manual_seed(7)).round() + 1e6
    row = new_row(SamplingParams(temperature=0.0, top_logprobs=20))
    check(SamplingStep(EOS, 600, sample=SAMPLES[sample]()), logits, [row])


def test_what_is_known_of_the_rows_of_one_runner_is_not_taken_for_those_of_another() -> None:
    rng, kernel = random.Random(6), kernel_sample()
    for token in (7, 9):
        params = SamplingParams(temperature=0.0, logit_bias={token: 100.0})
        step = SamplingStep(EOS, 40, sample=kernel)
        assert step(made_logits(rng, 1, 40), [new_row(params)]).tokens == [token]


def test_more_rows_than_slots_in_all_take_turns() -> None:
    rng = random.Random(1)
    step = SamplingStep(EOS, 40, rows=3)
    waiting = [made_row(rng, 40) for _ in range(9)]
    for _ in range(30):
        rows = rng.sample(waiting, 3)
        check(step, made_logits(rng, 3, 40), rows)
        take(step, rows)


@pytest.mark.parametrize("sample", SAMPLES)
def test_scores_that_are_no_numbers_leave_the_likeliest_token(sample: str) -> None:
    """An overflow, and a grammar that allows nothing: the same on every device, and never an id of no text."""

    class Nothing:
        def fill(self, words: npt.NDArray[np.int32]) -> None:
            words[:] = 0

        def accept(self, token_id: int) -> None:
            raise AssertionError

    step, rows = SamplingStep(EOS, 70, sample=SAMPLES[sample]()), list[Row]()
    for params in (SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(top_k=3, min_p=0.5)):
        rows += [new_row(params) for _ in range(2)]
        rows[-1].constraint = Nothing()
    logits = torch.zeros(len(rows), 70)
    logits[::2, 7] = float("inf")
    assert step(logits, rows).tokens == [7, 0] * 3
