"""The decode step as a recording, from embedding to sampled token, one for each size of batch. Knows no CUDA.

A recording reads and writes the same memory at every replay: what a step needs is copied there first. Batches are
padded to the next size; padding rows write to the page that belongs to nobody.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from truss_model.engine.attention import PagedKV
from truss_model.engine.batch import StepBatch, there
from truss_model.engine.limits import Limits
from truss_model.engine.row import PENDING
from truss_model.engine.sampling import draw_plain
from truss_model.engine.scheduler import StepPlan

logger = logging.getLogger(__name__)

Replay = Callable[[], object]
FIELDS = ("token", "source", "position", "slot", "context")


@dataclass(slots=True)
class Recording:
    """`replay` fills what `made` holds afterwards: logits [size, vocab] and tokens [size]."""

    replay: Replay
    made: list[torch.Tensor]


class DecodeGraphs:
    """All recordings of one model, over one set of input tensors."""

    def __init__(
        self,
        forward: Callable[[StepBatch], torch.Tensor],
        kv: PagedKV,
        limits: Limits,
        newest: torch.Tensor,
        capture: Callable[[Replay], Replay],
    ) -> None:
        """newest: int64 [max_rows], the tokens of the step before, replaced by this step's."""
        self._forward = forward
        self._kv = kv
        self._newest = newest
        self._capture = capture
        self.sizes = batch_sizes(limits.max_rows)
        device, rows = newest.device, limits.max_rows
        width = -(-limits.max_model_len // limits.page_size)
        self._fields = torch.zeros(len(FIELDS), rows, dtype=torch.int32, device=device)
        self._draws = torch.zeros(3, rows, dtype=torch.float64, device=device)
        self._tables = torch.zeros(rows, width, dtype=torch.int32, device=device)
        self._recordings: dict[tuple[int, bool], Recording] = {}

    def capture(self) -> None:
        """Record every size twice, for greedy steps and for steps that draw; the largest first, to share its memory."""
        began = time.monotonic()
        for done, size in enumerate(reversed(self.sizes), 1):
            self._feed_padding(size)
            for draws in (False, True):
                self._recordings[size, draws] = self._record(size, draws)
            logger.info(
                "Decode step recorded for %d rows (%d of %d sizes, %.1f s).",
                size, done, len(self.sizes), time.monotonic() - began,
            )  # fmt: skip

    def take(self, plan: StepPlan) -> bool:
        """Whether every row of the plan has one token that is followed by a new one."""
        return bool(self._recordings) and all(chunk.count == 1 and chunk.samples for chunk in plan.chunks)

    def run(
        self, plan: StepPlan, places: dict[int, int], draws: np.ndarray[tuple[int, int], np.dtype[np.float64]] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [rows, vocab], and tokens [rows] if `draws` says all that is needed to choose them.

        Both are overwritten by the next run.
        """
        rows = len(plan.chunks)
        size = next(size for size in self.sizes if size >= rows)
        self._feed(plan, places, size)
        drawing = draws is not None and bool(draws[1].any())
        if draws is not None and drawing:
            self._draws[:, :rows].copy_(there(draws, self._draws.device))
        recording = self._recordings[size, drawing]
        recording.replay()
        logits, tokens = recording.made
        return logits[:rows], tokens[:rows] if draws is not None else None

    def _feed(self, plan: StepPlan, places: dict[int, int], size: int) -> None:
        rows, page_size = len(plan.chunks), self._kv.page_size
        fields = self._padding(size)
        tables = np.zeros((rows, max(len(chunk.row.pages) for chunk in plan.chunks)), np.int32)
        for i, chunk in enumerate(plan.chunks):
            row, at = chunk.row, chunk.start
            tables[i, : len(row.pages)] = row.pages
            token = row.tokens[at]
            source = places[id(row)] if token == PENDING else -1
            slot = row.pages[at // page_size] * page_size + at % page_size
            fields[:, i] = max(token, 0), source, at, slot, at + 1
        device = self._fields.device
        self._fields[:, :size].copy_(there(fields, device))
        self._tables[:rows, : tables.shape[1]].copy_(there(tables, device))
        if size > rows:
            self._tables[rows:size, 0] = self._kv.padding_page

    def _feed_padding(self, size: int) -> None:
        self._fields[:, :size].copy_(there(self._padding(size), self._fields.device))
        self._tables[:size, 0] = self._kv.padding_page

    def _padding(self, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        fields = np.zeros((len(FIELDS), size), np.int32)
        fields[FIELDS.index("source")] = -1
        fields[FIELDS.index("slot")] = self._kv.padding_page * self._kv.page_size
        fields[FIELDS.index("context")] = 1
        return fields

    def _record(self, size: int, draws: bool) -> Recording:
        made: list[torch.Tensor] = []
        token, source, position, slot, context = (line[:size] for line in self._fields)
        device = self._fields.device
        every = torch.arange(size + 1, dtype=torch.int32, device=device)
        sampled = torch.arange(size, device=device)

        def step() -> None:
            known = torch.where(source >= 0, self._newest.index_select(0, source.clamp_min(0)), token)
            batch = StepBatch(
                tokens=known[None],
                positions=position[None],
                slots=slot,
                tables=self._tables[:size],
                starts=every,
                contexts=context,
                sampled=sampled,
                longest=1,
                decodes=size,
            )
            logits = self._forward(batch)
            tokens = draw_plain(logits, self._draws[:, :size]) if draws else logits.argmax(-1)
            self._newest[:size] = tokens
            made[:] = logits, tokens

        return Recording(self._capture(step), made)


def batch_sizes(max_rows: int) -> list[int]:
    """1, 2, 4, 8, ... and max_rows."""
    sizes = [1]
    while sizes[-1] < max_rows:
        sizes.append(min(2 * sizes[-1], max_rows))
    return sizes
