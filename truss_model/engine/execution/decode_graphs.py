"""Decode steps as recordings, two to a step: from embedding to logits, and from logits to tokens. Knows no CUDA.

A recording reads and writes the same memory at every replay: what a step needs is copied there first. There is one
forward for each size of batch, and one sampling for each size and kind; grammars work on the host between the two.
Batches are padded to the next size; padding rows write to the page that belongs to nobody.
"""

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.batch import StepBatch, with_newest
from truss_model.engine.execution.device_tables import DeviceTables
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.recording import Recording, Replay
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampling import Choice
from truss_model.engine.execution.sampling_state import Kind
from truss_model.engine.execution.step_fields import StepFields
from truss_model.engine.scheduling.row import PENDING
from truss_model.engine.scheduling.scheduler import StepPlan

logger = logging.getLogger(__name__)


class DecodeGraphs:
    """All recordings of steps in which every row decodes, and of sampling, over one set of input tensors."""

    def __init__(
        self,
        forward: Callable[[StepBatch], torch.Tensor],
        sample: Callable[[Kind, torch.Tensor], Choice],
        kv: PagedKV,
        limits: Limits,
        slots: RowSlots,
        tables: DeviceTables,
        fields: StepFields,
        newest: torch.Tensor,
        capture: Callable[[Replay], Replay],
    ) -> None:
        """sample: of logits [rows, vocab] that the fields describe. newest: int64 [max_rows], the tokens of the step
        before, which it replaces."""
        self._forward, self._sample = forward, sample
        self._kv, self._slots, self._fields, self._newest = kv, slots, fields, newest
        self._capture = capture
        self._tables = tables
        self.sizes = batch_sizes(limits.max_rows)
        self._logits: dict[int, Recording[torch.Tensor]] = {}
        self._choices: dict[tuple[int, Kind], Recording[Choice]] = {}

    def capture(self) -> None:
        """Record every size, the largest first, to share its memory."""
        began = time.monotonic()
        for done, size in enumerate(reversed(self.sizes), 1):
            self._feed_padding()
            forward = self._logits[size] = Recording.of(self._capture, *self._forward_work(size))
            for kind in Kind:
                self._choices[size, kind] = Recording.of(self._capture, *self._sampling_work(forward.made, kind))
            logger.info(
                "Decode step recorded for %d rows (%d of %d sizes, %.1f s).",
                size, done, len(self.sizes), time.monotonic() - began,
            )  # fmt: skip

    def rehearse(self) -> None:
        """Do the largest step that is recorded, unrecorded."""
        self._feed_padding()
        forward, logits = self._forward_work(self.sizes[-1])
        forward()
        self._sampling_work(logits, Kind.ALL)[0]()

    @property
    def kept_rows(self) -> int:
        """Rows of logits that all recordings together keep."""
        return sum(self.sizes)

    def fits(self, plan: StepPlan) -> bool:
        """Whether every row of the plan has one token that is followed by a new one."""
        return all(chunk.length == 1 and chunk.samples for chunk in plan.chunks)

    def feed(self, plan: StepPlan, places: dict[int, int], slots: npt.NDArray[np.int64]) -> None:
        """Fill the fields of a step for `forward`, and send the pages of rows that have come."""
        page_size, host = self._kv.page_size, self._fields.host
        for i, chunk in enumerate(plan.chunks):
            token = chunk.row.tokens[chunk.start]
            host["token"][i] = max(token, 0)
            host["source"][i] = places[id(chunk.row)] if token == PENDING else -1
        rows = len(plan.chunks)
        positions = np.fromiter((chunk.start for chunk in plan.chunks), np.int64, rows)
        columns = positions // page_size
        host["position"][:rows] = positions
        host["kv_slot"][:rows] = self._slots.tables[slots, columns] * page_size + positions % page_size
        self._pad(rows)
        self._tables.send(slots, columns, columns)

    def forward(self, rows: int) -> torch.Tensor:
        """Logits [rows, vocab] of what was fed; overwritten by later steps."""
        recording = self._logits[self._size(rows)]
        recording.replay()
        return recording.made[-1][:rows]

    def sample(self, kind: Kind, logits: torch.Tensor) -> Choice:
        """The choice for logits [rows, vocab], of `forward` or not; it may have more rows; overwritten, too."""
        size = self._size(len(logits))
        kept = self._logits[size].made[-1]
        if logits.data_ptr() != kept.data_ptr():
            kept[: len(logits)] = logits
        recording = self._choices[size, kind]
        recording.replay()
        return recording.made[-1]

    def _size(self, rows: int) -> int:
        return next(size for size in self.sizes if size >= rows)

    def _pad(self, rows: int) -> None:
        host = self._fields.host
        host["token"][rows:], host["source"][rows:], host["position"][rows:] = 0, -1, 0
        host["kv_slot"][rows:] = self._kv.padding_page * self._kv.page_size
        host["row"][rows:], host["context"][rows:], host["mask"][rows:] = self._slots.spare, 1, -1

    def _feed_padding(self) -> None:
        self._pad(0)
        self._fields.upload()
        self._tables.tables[self._slots.spare] = self._kv.padding_page

    def _forward_work(self, size: int) -> tuple[Replay, list[torch.Tensor]]:
        """The work, and where its result will be."""
        made: list[torch.Tensor] = []
        names = ("token", "source", "position", "kv_slot", "context", "row")
        token, source, position, slot, context, row = (self._fields.lines[name][:size] for name in names)
        device = self._newest.device
        every = torch.arange(size + 1, dtype=torch.int32, device=device)
        sampled = torch.arange(size, device=device)
        tables, page_size = self._tables.tables, self._kv.page_size

        def work() -> None:
            tables.index_put_((row, position // page_size), slot // page_size)
            batch = StepBatch(
                tokens=with_newest(token, source, self._newest)[None],
                positions=position[None],
                slots=slot,
                tables=tables.index_select(0, row),
                starts=every,
                contexts=context,
                sampled=sampled,
                longest=1,
                decodes=size,
            )
            made[:] = [self._forward(batch)]

        return work, made

    def _sampling_work(self, logits: list[torch.Tensor], kind: Kind) -> tuple[Replay, list[Choice]]:
        """logits: where the forward's result is."""
        made: list[Choice] = []

        def work() -> None:
            made[:] = [self._sample(kind, logits[-1])]

        return work, made


def batch_sizes(max_rows: int) -> list[int]:
    """1, 2, 4, 8, ... and max_rows."""
    sizes = [1]
    while sizes[-1] < max_rows:
        sizes.append(min(2 * sizes[-1], max_rows))
    return sizes
