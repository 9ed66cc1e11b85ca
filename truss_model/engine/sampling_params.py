"""Sampling and stopping parameters of one request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class TokenConstraint(Protocol):
    """A grammar over token ids with the state of one row. Called on the engine thread only; must not block."""

    def fill(self, words: npt.NDArray[np.int32]) -> None:
        """Write the next token's mask into `words`, int32 [ceil(vocab/32)]: bit i%32 of word i//32 allows token i."""

    def accept(self, token_id: int) -> None:
        """Advance by a token that the last mask allowed."""


@runtime_checkable
class Grammar(Protocol):
    """A compiled constraint: a call makes the state of one row. Another process makes the same one of `source`."""

    @property
    def source(self) -> tuple[str, str]: ...

    def __call__(self) -> TokenConstraint: ...


COLDEST = 1e-5  # below, quotients leave float32's range; long before that only the most likely token is drawn


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling and stopping of every row of a request. Ranges are checked where the body is parsed, not here.

    A temperature below COLDEST or top_k 1 is greedy. top_k 0 is off. Penalties are OpenAI's (presence, frequency: over
    generated tokens) and HF's (repetition: over prompt and generated tokens). `top_logprobs` None: no logprobs; 0..20:
    the chosen token's and as many alternatives, of the model's own distribution, before penalties, bias,
    temperature and masks. `prompt_logprobs`, likewise: of the prompt's tokens. max_tokens 0: only those.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Callable[[], TokenConstraint] | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST or self.top_k == 1
