"""One sequence in the engine: its tokens, its pages, its place in life."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from truss_model.engine.generation import FinishReason, Generation
from truss_model.engine.kv_cache import ROOT
from truss_model.engine.params import SamplingParams, TokenConstraint

PENDING = -1  # stands in `tokens` for a token that a running step is making


@dataclass(slots=True, eq=False)
class Row:
    """`tokens` are prompt and answer; the KV of the first `computed` of them is in `pages`.

    `published` pages at the front are in the prefix index, `digest` is the digest of all of them. `histories` are the
    sampler's token counts, by the place in `tokens` they begin at. `leader` is the row whose prompt this one shares
    (n > 1) until that prompt is computed. `long_prefill`: its prompt goes in small chunks while others decode.
    `fault` is what its grammar raised in the running step.
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
    histories: dict[int, tuple[torch.Tensor, int]] = field(default_factory=dict)
    fault: Exception | None = None
    finish_reason: FinishReason | None = None
    gone: bool = False

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens whose KV is not there yet; 1 while the row decodes."""
        return len(self.tokens) - self.computed

    @property
    def prefilling(self) -> bool:
        return self.remaining > 1

    def ended_by(self, token: int, length: int, eos: frozenset[int]) -> FinishReason | None:
        """Why the row ends with `token`, the one at length - 1; None if it goes on. A grammar's end is always one."""
        if token in eos and (self.constraint is not None or not self.params.ignore_eos):
            return "stop"
        return "length" if length - self.prompt_tokens >= self.params.max_tokens else None

    @property
    def ending(self) -> bool:
        """Whether the token that is being made is its last in any case."""
        return self.tokens[-1] == PENDING and self.generated >= self.params.max_tokens

    @property
    def waits_for_token(self) -> bool:
        """Whether the next token cannot be sampled before the host knows the last one."""
        p = self.params
        penalised = p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1.0
        return self.constraint is not None or bool(penalised)


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
