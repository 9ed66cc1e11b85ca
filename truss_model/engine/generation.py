"""A request's side of the engine: an async stream of token ids, delivered once a step, merged for slow readers."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal

from truss_model.errors import TrussModelError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of probabilities: the chosen token's, and the most likely ones in falling order."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class TokenOutput:
    """New tokens of one row since the last delivery.

    `finish_reason` "stop": the last token id is an end-of-sequence token. It counts in the usage and is no text.
    `logprobs` has one entry a token id if asked for, else is empty.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Generation:
    """What `Engine.submit` returns. Belongs to the event loop it was made on; the engine delivers through that loop."""

    def __init__(self, prompt_tokens: int, rows: int, cancel: Callable[["Generation", int | None], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self._cancel = cancel
        self._open = set(range(rows))
        self._pending: dict[int, TokenOutput] = {}
        self._error: TrussModelError | None = None
        self._news = asyncio.Event()
        self._admitted = asyncio.Event()

    async def admitted(self) -> None:
        """Return when the request leaves the queue; `cached_tokens` is known then.

        Raises QueueFull when it waited longer than the engine's queue time, EngineUnwell or GenerationFailed on faults.
        """
        await self._admitted.wait()
        if self._error is not None:
            raise self._error

    async def outputs(self) -> AsyncGenerator[list[TokenOutput], None]:
        """Yield what each row has got since the last time, until every row has finished or was cancelled.

        Raises GenerationFailed or EngineUnwell after the tokens that were made before the fault. After a cancelled
        wait it may be called anew: nothing is lost.
        """
        while self._open or self._pending or self._error:
            await self._news.wait()
            self._news.clear()
            batch, self._pending = list(self._pending.values()), {}
            if batch:
                yield batch
            if self._error is not None:
                raise self._error

    def cancel(self, index: int | None = None) -> None:
        """Drop one row, or all of them; their pages are free after the running step. Harmless when already finished."""
        dropped = set(self._open) if index is None else self._open & {index}
        if not dropped:
            return
        self._open -= dropped
        self._news.set()
        self._cancel(self, index)

    # Called by the engine, through the event loop.

    def admit(self, cached_tokens: int) -> None:
        self.cached_tokens = cached_tokens
        self._admitted.set()

    def deliver(self, output: TokenOutput) -> None:
        if output.index not in self._open:
            return
        held = self._pending.setdefault(output.index, TokenOutput(output.index))
        held.token_ids += output.token_ids
        held.logprobs += output.logprobs
        held.finish_reason = output.finish_reason
        if output.finish_reason is not None:
            self._open.discard(output.index)
        self._news.set()

    def fail(self, error: TrussModelError) -> None:
        if not self._open:
            return
        self._open.clear()
        self._error = error
        self._admitted.set()
        self._news.set()
