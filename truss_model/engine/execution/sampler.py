"""The host's side of sampling: what a step has to be told of its rows, and what comes back. Advances their generators.

Each row draws with a generator of its own, one number a token: a seeded row gets the same tokens alone and in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.sampling import Choice
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields, upload
from truss_model.engine.generation import PromptScore, TokenLogprob
from truss_model.engine.scheduling.row import Row


@dataclass(slots=True)
class Sampled:
    """One token a row, and its logprobs where the row asked for them; scores of the prompts of other rows, too."""

    tokens: list[int]
    logprobs: list[TokenLogprob | None]
    scores: list[tuple[Row, list[PromptScore]]] = field(default_factory=list)


class PendingTokens:
    """Tokens on the device, on their way to the host. `result` waits for them."""

    def __init__(self, choice: Choice, rows: Sequence[Row]) -> None:
        """The tensors of the choice may be overwritten by later steps."""
        self._rows = rows
        self._wanting = [i for i, row in enumerate(rows) if row.params.top_logprobs is not None]
        parts = [choice.tokens]
        if self._wanting and choice.own is not None and choice.top is not None and choice.ids is not None:
            parts += [choice.own, choice.top, choice.ids]
        self._parts = [part[: len(rows)].to("cpu", non_blocking=True) for part in parts]
        self._copied = torch.cuda.Event() if choice.tokens.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def result(self) -> Sampled:
        if self._copied is not None:
            self._copied.synchronize()
        tokens = self._parts[0].tolist()
        logprobs: list[TokenLogprob | None] = [None] * len(tokens)
        if len(self._parts) > 1:
            own, top, ids = (part.numpy() for part in self._parts[1:])
            for i in self._wanting:
                most = self._rows[i].params.top_logprobs or 0
                entries = zip(ids[i, :most].tolist(), top[i, :most].tolist(), strict=True)
                logprobs[i] = TokenLogprob(float(own[i]), tuple(entries))
        return Sampled(tokens, logprobs)


class Sampler:
    """Fills the fields and masks of steps."""

    def __init__(self, state: SamplingState, fields: StepFields, spare: int) -> None:
        self._state, self._fields, self._spare = state, fields, spare
        self._constrained: list[Row] = []

    def prepare(self, rows: Sequence[Row], slots: npt.NDArray[np.int64], contexts: npt.NDArray[np.int64]) -> Kind:
        """Fill row, context, mask and uniform of the fields; contexts: tokens of each row. What the step has to do."""
        state, host, count = self._state, self._fields.host, len(rows)
        state.enter(rows, slots)
        host["row"][:count], host["row"][count:] = slots, self._spare
        host["context"][:count], host["context"][count:] = contexts, 1
        kind = Kind(int(state.kinds[slots].max()))
        if kind is not Kind.GREEDY:
            for i in np.flatnonzero(state.draws[slots]).tolist():
                self._fields.host_uniform[i] = rows[i].random.random()
        self._constrained = []
        host["mask"][:] = -1
        if kind is Kind.ALL:
            for i, row in enumerate(rows):
                if row.constraint is not None:
                    host["mask"][i] = len(self._constrained)
                    self._constrained.append(row)
        return kind

    def fill_masks(self) -> None:
        """Ask the grammars of the prepared rows what is allowed next. May go beside the forward, before sampling."""
        if not self._constrained:
            return
        words = np.zeros((len(self._constrained), self._state.masks.shape[1]), np.int32)
        for bits, row in zip(words, self._constrained, strict=True):
            try:
                if row.constraint is not None:
                    row.constraint.fill(bits)
            except Exception as error:  # fails this row alone, once its token is here
                row.grammar_error = error
                bits[:] = -1
        upload(words, self._state.masks[: len(words)])
