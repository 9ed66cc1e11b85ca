"""Carries a step's outputs from the engine thread to their readers: one call per step, not per token."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from truss_model.engine.generation import FinishReason, Generation, PromptScore, TokenLogprob, TokenOutput
from truss_model.errors import TrussModelError

Call = tuple[Callable[..., None], object]
Loop = asyncio.AbstractEventLoop | None


class Delivery(Protocol):
    """Collects on the engine thread; `flush` hands over. Outputs for a generation that is closed are dropped.

    The generations are the keys under which the engine knows its requests.
    """

    def open(self, generation: Generation, loop: Loop) -> None: ...

    def close(self, generation: Generation) -> None: ...

    def admit(self, generation: Generation, cached_tokens: int) -> None: ...

    def score(self, generation: Generation, scores: list[PromptScore]) -> None: ...

    def put(
        self,
        generation: Generation,
        index: int,
        token: int | None,
        logprob: TokenLogprob | None,
        reason: FinishReason | None,
    ) -> None:
        """Row `index` has got a token, or ends for this reason, or both."""

    def fail(self, generation: Generation, error: TrussModelError) -> None: ...

    def flush(self) -> None: ...


class LoopDelivery:
    """To event loops of this process. Outputs for a loop that has closed are dropped."""

    def __init__(self) -> None:
        self._loops: dict[Generation, asyncio.AbstractEventLoop] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, list[Call]] = {}

    def open(self, generation: Generation, loop: Loop) -> None:
        if loop is not None:
            self._loops[generation] = loop

    def close(self, generation: Generation) -> None:
        self._loops.pop(generation, None)

    def admit(self, generation: Generation, cached_tokens: int) -> None:
        self._post(generation, generation.admit, cached_tokens)

    def score(self, generation: Generation, scores: list[PromptScore]) -> None:
        self._post(generation, generation.score, scores)

    def put(
        self,
        generation: Generation,
        index: int,
        token: int | None,
        logprob: TokenLogprob | None,
        reason: FinishReason | None,
    ) -> None:
        tokens = [] if token is None else [token]
        logprobs = [] if logprob is None else [logprob]
        self._post(generation, generation.deliver, TokenOutput(index, tokens, logprobs, reason))

    def fail(self, generation: Generation, error: TrussModelError) -> None:
        self._post(generation, generation.fail, error)

    def flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for loop, calls in outbox.items():
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(_run_all, calls)

    def _post(self, generation: Generation, call: Callable[[Any], None], argument: object) -> None:
        loop = self._loops.get(generation)
        if loop is not None:
            self._outbox.setdefault(loop, []).append((call, argument))


def _run_all(calls: list[Call]) -> None:
    for call, argument in calls:
        call(argument)
