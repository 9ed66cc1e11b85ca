"""What drawing takes of a device's memory, all of which the KV cache lacks."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampling import torch_sample
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields

ROWS, VOCAB = 64, 1024


class PeakMemory(TorchDispatchMode):
    """`peak`: bytes that were held at one time of all that was made since."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._held += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._held)
        return made

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


@pytest.mark.parametrize("kind", [Kind.DRAW, Kind.ALL])
def test_many_rows_take_the_memory_of_those_that_are_drawn_for_at_once(kind: Kind) -> None:
    fields = StepFields(ROWS, torch.device("cpu"))
    state = SamplingState(RowSlots(ROWS, 1), VOCAB, frozenset({2}), torch.device("cpu"))
    logits = torch.randn(ROWS, VOCAB)

    def peak(rows: int) -> int:
        with PeakMemory() as memory:
            torch_sample(kind, logits[:rows], state, fields, at_once=4 * VOCAB)
        return memory.peak

    assert peak(4) > 4 * VOCAB * 16
    assert peak(ROWS) < 2 * peak(4)
