"""What drawing takes of a device's memory, all of which the KV cache lacks."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.sampling import Sample, torch_sample
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

ROWS, VOCAB = 64, 1024
SAMPLES: dict[str, Callable[[int], Sample]] = {
    "torch": lambda at_once: functools.partial(torch_sample, at_once=at_once),
    "Triton": TritonSampling,
}


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


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("kind", [Kind.DRAW, Kind.ALL])
def test_many_rows_take_the_memory_of_those_that_are_drawn_for_at_once(kind: Kind, sample: str) -> None:
    fields = StepFields(ROWS, torch.device("cpu"))
    state = SamplingState(RowSlots(ROWS, 1), VOCAB, frozenset({2}), torch.device("cpu"))
    logits = torch.randn(ROWS, VOCAB)

    def peak(rows: int) -> int:
        with PeakMemory() as memory:
            SAMPLES[sample](4 * VOCAB)(kind, logits[:rows], state, fields)
        return memory.peak

    assert peak(4) > 4 * VOCAB * 16
    assert peak(ROWS) < 2 * peak(4)
