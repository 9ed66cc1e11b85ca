"""Carries what a step made from the engine thread to the event loops: one call a loop and step, not one a token."""

import asyncio
import contextlib
from collections.abc import Callable

from truss_model.engine.generation import Generation, TokenOutput
from truss_model.errors import TrussModelError


class Delivery:
    """Collects on the engine thread; `flush` hands over. A loop that has closed takes its callers with it."""

    def __init__(self) -> None:
        self._loops: dict[Generation, asyncio.AbstractEventLoop] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}

    def open(self, generation: Generation, loop: asyncio.AbstractEventLoop) -> None:
        self._loops[generation] = loop

    def close(self, generation: Generation) -> None:
        self._loops.pop(generation, None)

    def admit(self, generation: Generation, cached_tokens: int) -> None:
        self._post(generation, lambda: generation.admit(cached_tokens))

    def put(self, generation: Generation, output: TokenOutput) -> None:
        self._post(generation, lambda: generation.deliver(output))

    def fail(self, generation: Generation, error: TrussModelError) -> None:
        self._post(generation, lambda: generation.fail(error))

    def flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for loop, calls in outbox.items():
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(_run_all, calls)

    def _post(self, generation: Generation, call: Callable[[], None]) -> None:
        loop = self._loops.get(generation)
        if loop is not None:
            self._outbox.setdefault(loop, []).append(call)


def _run_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
