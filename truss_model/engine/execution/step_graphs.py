"""All recordings of a model's steps, and which of them a plan fits. Knows no CUDA."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.decode_graphs import DecodeGraphs
from truss_model.engine.execution.mixed_fields import MixedShape
from truss_model.engine.execution.mixed_graphs import MixedGraphs
from truss_model.engine.scheduling.scheduler import StepPlan


class StepGraphs:
    """`ready` once they are captured; `sample` and `feed` are for then."""

    def __init__(self, decode: DecodeGraphs, mixed: MixedGraphs | None) -> None:
        """Over the same tables and `newest`. mixed: None if steps with prompts are not to be recorded."""
        self._decode, self._mixed = decode, mixed
        self.sample = decode.sample
        self.ready = False

    def capture(self) -> None:
        """The steps that need the most memory first: the others share it."""
        if self._mixed is not None:
            self._mixed.capture()
        self._decode.capture()
        self.ready = True

    def rehearse(self) -> None:
        """Do the largest steps that are recorded, unrecorded. What fails here fails in `capture`, which tells it."""
        for graphs in (self._mixed, self._decode):
            if graphs is not None:
                with suppress(Exception):
                    graphs.rehearse()

    @property
    def kept_rows(self) -> int:
        """Rows of logits that all recordings together keep."""
        return self._decode.kept_rows + (0 if self._mixed is None else self._mixed.kept_rows)

    @property
    def decode_sizes(self) -> list[int]:
        return self._decode.sizes

    @property
    def mixed_shapes(self) -> list[MixedShape]:
        return [] if self._mixed is None else self._mixed.shapes

    def feed(
        self, plan: StepPlan, places: dict[int, int], slots: npt.NDArray[np.int64]
    ) -> Callable[[], torch.Tensor] | None:
        """The recorded forward of the plan, with all that it reads but the step's fields; None if no recording fits.

        It gives the logits of the chunks that sample, which later steps overwrite.
        """
        if self._decode.fits(plan):
            self._decode.feed(plan, places, slots)
            return partial(self._decode.forward, len(plan.chunks))
        mixed = self._mixed
        shape = mixed.shape_for(plan) if mixed is not None else None
        if mixed is None or shape is None:
            return None
        mixed.feed(shape, plan, places, slots)
        return partial(mixed.forward, shape, sum(chunk.samples for chunk in plan.chunks))
