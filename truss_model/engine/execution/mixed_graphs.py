"""Steps with prompts in them as recordings, from embedding to logits. Knows no CUDA, and does not sample.

There is one for each number of tokens and of rows that decode; what a step does not use of it, it computes for nobody.
"""

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.batch import Layout, StepBatch, leading_singles, with_newest
from truss_model.engine.execution.device_tables import DeviceTables
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.mixed_fields import MixedFields, MixedShape, mixed_shapes
from truss_model.engine.execution.recording import Recording, Replay
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.scheduling.scheduler import StepPlan

logger = logging.getLogger(__name__)


class MixedGraphs:
    """All recordings of such steps, over one set of input tensors and one of logits."""

    def __init__(
        self,
        forward: Callable[[StepBatch], torch.Tensor],
        kv: PagedKV,
        limits: Limits,
        slots: RowSlots,
        tables: DeviceTables,
        newest: torch.Tensor,
        capture: Callable[[Replay], Replay],
    ) -> None:
        """newest: int64 [max_rows], the tokens of the step before."""
        self._forward, self._kv, self._slots, self._tables = forward, kv, slots, tables
        self._newest, self._capture = newest, capture
        self.shapes = mixed_shapes(limits)
        self._fields = MixedFields(self.shapes, newest.device)
        self._recordings: dict[MixedShape, Recording[torch.Tensor]] = {}
        self.kept_rows = max(shape.sampled for shape in self.shapes)

    def capture(self) -> None:
        """Record every shape, the largest first, to share its memory."""
        began = time.monotonic()
        like = self.rehearse()
        logits = like.new_empty(self.kept_rows, like.shape[1])
        del like
        for done, shape in enumerate(reversed(self.shapes), 1):
            self._feed_padding(shape)
            self._recordings[shape] = Recording.of(self._capture, *self._work(shape, logits))
            logger.info(
                "Step recorded for %d tokens, %d rows that decode (%d of %d sizes, %.1f s).",
                shape.tokens, shape.decodes, done, len(self.shapes), time.monotonic() - began,
            )  # fmt: skip

    def rehearse(self) -> torch.Tensor:
        """The logits of the largest step that is recorded, unrecorded."""
        self._feed_padding(self.shapes[-1])
        return self._forward(self._batch(self.shapes[-1]))

    def shape_for(self, plan: StepPlan) -> MixedShape | None:
        """The smallest that the plan fits into, if one does."""
        if plan.tokens > self.shapes[-1].tokens or any(chunk.scored for chunk in plan.chunks):
            return None
        tokens, decodes = plan.tokens, leading_singles(plan.chunks)
        prompts = len(plan.chunks) - decodes
        return next((shape for shape in self.shapes if shape.holds(tokens, decodes, prompts)), None)

    def feed(self, shape: MixedShape, plan: StepPlan, places: dict[int, int], slots: npt.NDArray[np.int64]) -> None:
        """Send what `forward` reads."""
        at = Layout.of(plan.chunks)
        page_size = self._kv.page_size
        self._fields.fill(shape, plan.chunks, at, slots, self._slots, places, page_size, self._kv.padding_page)
        self._fields.upload()
        self._tables.send(slots, at.begins // page_size, (at.begins + at.counts - 1) // page_size)

    def forward(self, shape: MixedShape, sampled: int) -> torch.Tensor:
        """Logits [sampled, vocab] of what was fed; overwritten by later steps."""
        recording = self._recordings[shape]
        recording.replay()
        return recording.made[-1][:sampled]

    def _feed_padding(self, shape: MixedShape) -> None:
        self.feed(shape, StepPlan(), {}, np.zeros(0, np.int64))

    def _work(self, shape: MixedShape, logits: torch.Tensor) -> tuple[Replay, list[torch.Tensor]]:
        """The work, and its result, which is the first of the logits."""
        made = logits[: shape.sampled]
        return lambda: made.copy_(self._forward(self._batch(shape))), [made]

    def _batch(self, shape: MixedShape) -> StepBatch:
        lines, page_size = self._fields.lines, self._kv.page_size
        names = ("token", "source", "position", "kv_slot", "owner")
        token, source, position, slot, owner = (lines[name][: shape.tokens] for name in names)
        self._tables.tables.index_put_((owner, position // page_size), slot // page_size)
        return StepBatch(
            tokens=with_newest(token, source, self._newest)[None],
            positions=position[None],
            slots=slot,
            tables=self._tables.tables.index_select(0, lines["row"][: shape.rows]),
            starts=lines["start"][: shape.rows + 1],
            contexts=lines["context"][: shape.rows],
            sampled=lines["sampled"][: shape.sampled].long(),
            longest=shape.tokens,
            decodes=shape.decodes,
        )
