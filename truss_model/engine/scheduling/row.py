"""One sequence in the engine: its tokens, its pages, its status."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

from truss_model.engine.generation import FinishReason, Generation
from truss_model.engine.sampling_params import SamplingParams, TokenConstraint
from truss_model.engine.scheduling.kv_cache import ROOT
from truss_model.errors import GenerationFailed, RequestError, TrussModelError

logger = logging.getLogger(__name__)

PENDING = -1  # stands in `tokens` for a token that a running step computes


class RowStatus(Enum):
    """WAITING, PREFILL, DECODE, LAST_TOKEN, ENDED in this order. A preempted row is WAITING again."""

    WAITING = auto()  # in the scheduler's queue, without pages
    PREFILL = auto()  # some of its tokens have no KV yet
    DECODE = auto()  # one token in every step
    LAST_TOKEN = auto()  # a launched step computes the last token that max_tokens allows
    ENDED = auto()  # finished, cancelled or failed; holds no pages


@dataclass(slots=True, eq=False, weakref_slot=True)
class Row:
    """`tokens` are prompt and answer; the KV of the first `computed` of them is in `pages`.

    `published` pages at the front are in the prefix index, `digest` is the digest of all of them. `leader` is the row
    whose prompt this one shares (n > 1) until that prompt is computed. `long_prefill`: its prompt is computed in small
    chunks while others decode. `grammar_error` is the exception of its grammar in the running step. `scored`: number of
    its first tokens whose logits were taken for the log probabilities of the prompt. `slot`: its place in the tables of
    the execution, -1 without one. `arrived` and `last_token` are times of time.monotonic; the latter is 0 until the
    first token.
    """

    generation: Generation
    index: int
    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    arrival: int
    leader: "Row | None" = None
    constraint: TokenConstraint | None = None
    random: Random = field(default_factory=Random)
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    published: int = 0
    digest: bytes = ROOT
    admissions: int = 0
    long_prefill: bool = False
    scored: int = 0
    slot: int = -1
    grammar_error: Exception | None = None
    status: RowStatus = RowStatus.WAITING
    arrived: float = field(default_factory=time.monotonic)
    last_token: float = 0.0

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Number of tokens whose KV is not computed; 1 while the row decodes."""
        return len(self.tokens) - self.computed

    @property
    def scores_prompt(self) -> bool:
        """Whether log probabilities of its prompt are missing. The first row of a request computes them for all."""
        wanted = self.params.prompt_logprobs is not None and self.index == 0
        return wanted and self.scored < self.prompt_tokens - 1

    @property
    def ended(self) -> bool:
        return self.status is RowStatus.ENDED

    def ended_by(self, token: int, length: int, eos: frozenset[int]) -> FinishReason | None:
        """Why the row ends with `token`, the one at length - 1; None if it goes on.

        An end-of-sequence token that a grammar allowed ends the row even if the caller ignores such tokens.
        """
        if token in eos and self.params.max_tokens and (self.constraint is not None or not self.params.ignore_eos):
            return "stop"
        return "length" if length - self.prompt_tokens >= self.params.max_tokens else None

    def accept(self, token: int) -> TrussModelError | None:
        """Advance the grammar, if any, by a token; the error that ends the request."""
        try:
            if self.grammar_error is not None:
                raise self.grammar_error
            if self.constraint is not None:
                self.constraint.accept(token)
        except RequestError as error:  # the schema exceeds the limits of work: the caller's fault
            return error
        except Exception:
            logger.exception("The grammar of a row failed.")
            return GenerationFailed("The answer's grammar failed.")
        return None

    @property
    def waits_for_token(self) -> bool:
        """Whether the next token cannot be sampled before the host knows the last one."""
        return self.constraint is not None


def make_rows(generation: Generation, prompt: Sequence[int], params: SamplingParams, n: int, arrival: int) -> list[Row]:
    """A request's rows; the first leads the others, and row i of a seeded request draws with seed + i."""
    rows: list[Row] = []
    for index in range(n):
        row = Row(
            generation=generation,
            index=index,
            tokens=list(prompt),
            prompt_tokens=len(prompt),
            params=params,
            arrival=arrival,
            leader=rows[0] if rows else None,
            constraint=params.constraint() if params.constraint else None,
        )
        row.random = Random() if params.seed is None else Random(params.seed + index)
        rows.append(row)
    return rows
