"""How long requests and steps take and how large they are, in histograms. Filled on the engine thread.

A step costs one pass over its rows; rows that got their previous token in the same step are counted together.
"""

import time
from collections.abc import Callable, Sequence

from truss_model.engine.histogram import Distribution, Histogram
from truss_model.engine.scheduling.row import PENDING, Row, RowStatus
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
GAPS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
POWERS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
TOKENS = (*POWERS, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
ENDED = RowStatus.ENDED
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Observations:
    """Seconds count from the moment in which the engine got the request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: the one of `Row.arrived`."""
        self._clock = clock
        self._queue = Histogram(SECONDS)
        self._first_token = Histogram(SECONDS)
        self._gaps = Histogram(GAPS)
        self._whole = Histogram(SECONDS)
        self._prompt = Histogram(TOKENS)
        self._generated = Histogram(TOKENS)
        self._step_tokens = Histogram(TOKENS)
        self._step_rows = Histogram(POWERS)
        self._step_pages = Histogram(SHARES)

    def admitted(self, row: Row) -> None:
        """The first row of a request has left the queue."""
        self._queue.observe(self._clock() - row.arrived)
        self._prompt.observe(row.prompt_tokens)

    def stepped(self, plan: StepPlan, sampling: Sequence[Chunk], at: float, pages_used: float) -> None:
        """A step has ended `at` this time, with a token for each row of `sampling`. pages_used: the share, 0 to 1."""
        self._step_tokens.observe(plan.tokens)
        self._step_rows.observe(len(plan.chunks))
        self._step_pages.observe(pages_used)
        before, rows = 0.0, 0
        for chunk in sampling:
            row = chunk.row
            if row.status is ENDED:
                continue
            previous, row.last_token = row.last_token, at
            if previous == 0.0:
                self._first_token.observe(at - row.arrived)
            elif previous == before:
                rows += 1
            else:
                self._gaps.observe(at - before, rows)
                before, rows = previous, 1
        self._gaps.observe(at - before, rows)

    def closed(self, rows: Sequence[Row]) -> None:
        """All rows of a request have ended or were cancelled. One that never left the queue does not count."""
        if not rows or not rows[0].admissions:
            return
        self._whole.observe(self._clock() - rows[0].arrived)
        for row in rows:
            self._generated.observe(row.generated - (row.tokens[-1] == PENDING))

    def distributions(self) -> dict[str, Distribution]:
        """By metric name. From any thread."""
        return {
            "request_queue_time_seconds": self._queue.read(),
            "time_to_first_token_seconds": self._first_token.read(),
            "inter_token_latency_seconds": self._gaps.read(),
            "e2e_request_latency_seconds": self._whole.read(),
            "request_prompt_tokens": self._prompt.read(),
            "request_generation_tokens": self._generated.read(),
            "step_tokens": self._step_tokens.read(),
            "step_rows": self._step_rows.read(),
            "step_pages_used_ratio": self._step_pages.read(),
        }
