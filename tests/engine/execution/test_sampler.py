"""The sampler against plain reference implementations and transformers' own logits processors."""

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from tests.engine.execution.sampling_step import SamplingStep
from truss_model.engine.execution.sampler import Sampled
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import COLDEST, SamplingParams
from truss_model.engine.scheduling.row import Row

VOCAB = 50
EOS = frozenset({2})


def row(params: SamplingParams, prompt: tuple[int, ...] = (5,), generated: tuple[int, ...] = (), seed: int = 0) -> Row:
    generation = Generation(len(prompt), 1, lambda *_: None)
    made = Row(generation, 0, [*prompt, *generated], len(prompt), params, 0)
    made.random = random.Random(seed)
    return made


def logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def sampled(scores: torch.Tensor, asked: Sequence[Row], eos: frozenset[int] = EOS) -> Sampled:
    return SamplingStep(eos, VOCAB)(scores, asked)


def processed(scores: torch.Tensor, asked: Row) -> torch.Tensor:
    return SamplingStep(EOS, VOCAB).process(scores, [asked])[0]


class Fixed:
    """A constraint that allows a fixed set of tokens."""

    def __init__(self, allowed: set[int]) -> None:
        self.allowed = allowed

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        bits = np.zeros(len(words) * 32, np.uint8)
        bits[list(self.allowed)] = 1
        words[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> None:
        assert token_id in self.allowed


@given(
    st.lists(st.integers(0, VOCAB - 1), max_size=30),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=5),
)
def test_penalties_and_bias_are_openais(
    generated: list[int], presence: float, frequency: float, bias: dict[int, float]
) -> None:
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    scores = logits()
    expected = scores[0].double()
    for token, count in Counter(generated).items():
        expected[token] -= count * frequency + presence
    for token, value in bias.items():
        expected[token] += value
    got = processed(scores, row(params, generated=tuple(generated)))
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-5)


def test_counts_follow_the_row_as_it_grows() -> None:
    step, asked = SamplingStep(EOS, VOCAB), row(SamplingParams(frequency_penalty=1.0, temperature=0.0))
    for token in (7, 7, 9):
        scores = logits()
        scores[0, token] = 100
        asked.tokens += step(scores, [asked]).tokens
        assert asked.tokens[-1] == token
    got = step.process(logits(), [asked])[0] - logits()[0]
    assert got[[7, 9, 8]].tolist() == pytest.approx([-2.0, -1.0, 0.0], abs=1e-5)


def test_repetition_penalty_is_transformers() -> None:
    asked = row(SamplingParams(repetition_penalty=1.3), prompt=(5, 6, 7), generated=(8, 8))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([asked.tokens]), logits())
    torch.testing.assert_close(processed(logits(), asked), expected[0])


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        (SamplingParams(top_k=5), [TopKLogitsWarper(5)]),
        (SamplingParams(top_p=0.7), [TopPLogitsWarper(0.7)]),
        (SamplingParams(top_p=0.01), [TopPLogitsWarper(0.01)]),
        (SamplingParams(min_p=0.1), [MinPLogitsWarper(0.1)]),
        (SamplingParams(top_k=20, top_p=0.8), [TopKLogitsWarper(20), TopPLogitsWarper(0.8)]),
        (
            SamplingParams(top_k=20, top_p=0.95, min_p=0.05),
            [TopKLogitsWarper(20), TopPLogitsWarper(0.95), MinPLogitsWarper(0.05)],
        ),
    ],
)
def test_draws_follow_the_distribution_of_transformers(params: SamplingParams, warpers: list[object]) -> None:
    expected = logits()
    for warper in warpers:
        expected = warper(torch.tensor([[5]]), expected)  # type: ignore[operator]
    shares = expected.softmax(-1)[0]
    asked, draws = row(params), 3000
    step, hundred = SamplingStep(EOS, VOCAB), logits().expand(100, -1)
    seen = Counter(token for _ in range(draws // 100) for token in step(hundred, [asked] * 100).tokens)
    assert {token for token in seen if shares[token] == 0} == set()
    for token in range(VOCAB):
        deviation = 5 * math.sqrt(draws * float(shares[token]) * (1 - float(shares[token]))) + 1
        assert abs(seen[token] - draws * float(shares[token])) <= deviation


@pytest.mark.parametrize("temperature", [0.01, COLDEST, 1e-6, 1e-40, 6.7e-135])
def test_the_colder_the_nearer_to_greedy(temperature: float) -> None:
    cold = [row(SamplingParams(temperature=temperature, top_p=top_p)) for top_p in (1.0, 0.0)]
    free, held = sampled(1000 * logits(2), cold).tokens, {33, 49}
    assert free == (1000 * logits(2)).argmax(-1).tolist()
    cold[0].constraint, cold[1].constraint = Fixed(held), Fixed(held)
    assert set(sampled(1000 * logits(2), cold).tokens) <= held


def test_greedy_rows_stay_exact_beside_sampling_rows_and_a_seed_draws_the_same_alone() -> None:
    scores = logits(4)
    asked = [
        row(SamplingParams(temperature=0.0)),
        row(SamplingParams(temperature=1.0), seed=11),
        row(SamplingParams(top_k=1, temperature=2.0)),
        row(SamplingParams(temperature=1.5, top_p=0.9), seed=12),
    ]
    together = sampled(scores, asked).tokens
    assert [together[0], together[2]] == [int(scores[0].argmax()), int(scores[2].argmax())]
    assert together[1] == sampled(scores[1:2], [row(asked[1].params, seed=11)]).tokens[0]
    assert together[3] == sampled(scores[3:4], [row(asked[3].params, seed=12)]).tokens[0]


def test_logprobs_are_of_the_models_own_distribution() -> None:
    params = SamplingParams(temperature=0.0, logit_bias={9: 100.0}, presence_penalty=2.0, top_logprobs=3)
    asked = [row(SamplingParams(temperature=0.0)), row(params)]
    made = sampled(logits(2), asked)
    expected = logits(2)[1].log_softmax(-1)
    entry = made.logprobs[1]
    assert made.logprobs[0] is None and entry is not None
    assert made.tokens[1] == 9
    assert entry.logprob == pytest.approx(float(expected[9]), abs=1e-5)
    values, ids = expected.topk(3)
    assert [token for token, _ in entry.top] == ids.tolist()
    assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_min_tokens_holds_the_end_back() -> None:
    scores = torch.zeros(1, VOCAB)
    scores[0, 2] = 10
    params = SamplingParams(temperature=0.0, min_tokens=2)
    assert sampled(scores, [row(params, generated=(4,))]).tokens != [2]
    assert sampled(scores, [row(params, generated=(4, 4))]).tokens == [2]


def test_constraints_hold_for_their_rows_only() -> None:
    asked = [row(SamplingParams(temperature=0.0)), row(SamplingParams()), row(SamplingParams(temperature=0.0))]
    asked[1].constraint, asked[2].constraint = Fixed({33, 49}), Fixed({31})
    for seed in range(20):
        scores = logits(3, seed)
        tokens = sampled(scores, asked).tokens
        assert tokens[0] == int(scores[0].argmax())
        assert tokens[1] in {33, 49}
        assert tokens[2] == 31


def test_the_logits_handed_in_are_not_changed() -> None:
    scores = logits()
    sampled(scores, [row(SamplingParams(logit_bias={1: 5.0}, temperature=0.7, top_p=0.5))])
    assert torch.equal(scores, logits())
