"""Delivery to another process: one frame a step, with the engine's counts."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple

from truss_model.engine.delivery import Loop
from truss_model.engine.generation import FinishReason, Generation, PromptScore, TokenLogprob
from truss_model.engine.histogram import Distribution
from truss_model.engine.messages import NO_TOKEN, Batch, frame, pack_error
from truss_model.engine.stats import EngineStats
from truss_model.errors import TrussModelError

DISTRIBUTION_SECONDS = 0.25


class NumberedGeneration(Generation):
    """A request that lives in the other process, under this number."""

    def __init__(self, number: int, prompt_tokens: int, rows: int) -> None:
        super().__init__(prompt_tokens, rows, _nothing)
        self.number = number


def _nothing(generation: Generation, index: int | None) -> None:
    """It is cancelled in the other process."""


class PipeDelivery:
    """`send` may wait until the other end has room: an engine is never more than a socket's buffer ahead of it."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self.generations: dict[int, NumberedGeneration] = {}  # filled by who submits; closed ones leave
        self.state: Callable[[], tuple[EngineStats, bool]] | None = None  # the engine's counts, whether it is healthy
        self.distributions: Callable[[], Mapping[str, Distribution]] = dict
        self._send = send
        self._batch = Batch()
        self._told: tuple[object, ...] = ()
        self._distributed = 0.0

    def open(self, generation: Generation, loop: Loop) -> None:
        pass

    def close(self, generation: Generation) -> None:
        if isinstance(generation, NumberedGeneration):
            self.generations.pop(generation.number, None)

    def admit(self, generation: Generation, cached_tokens: int) -> None:
        if isinstance(generation, NumberedGeneration):
            self._batch.admitted.append((generation.number, cached_tokens))

    def score(self, generation: Generation, scores: list[PromptScore]) -> None:
        if isinstance(generation, NumberedGeneration):
            self._batch.scores.append((generation.number, [astuple(score) for score in scores]))

    def put(
        self,
        generation: Generation,
        index: int,
        token: int | None,
        logprob: TokenLogprob | None,
        reason: FinishReason | None,
    ) -> None:
        if isinstance(generation, NumberedGeneration):
            self._batch.put(generation.number, index, NO_TOKEN if token is None else token, logprob, reason)

    def fail(self, generation: Generation, error: TrussModelError) -> None:
        if isinstance(generation, NumberedGeneration):
            self._batch.failed.append((generation.number, pack_error(error)))

    def flush(self) -> None:
        """Send what there is, and the counts when they have changed; distributions at times, and when all is done."""
        if self.state is None:
            return
        stats, healthy = self.state()
        counts = (*stats, healthy)
        if self._batch or counts != self._told:
            self._told, now, found = counts, time.monotonic(), None
            if now - self._distributed > DISTRIBUTION_SECONDS or not stats.rows_running:
                self._distributed = now
                found = {name: (one.bounds, one.counts, one.total) for name, one in self.distributions().items()}
            batch, self._batch = self._batch, Batch()
            with contextlib.suppress(OSError):  # the server has ended: who reads the socket ends this process
                self._send(frame((*batch.columns(), counts, found)))
