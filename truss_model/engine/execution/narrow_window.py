"""A sliding window made small enough for a short text to cross it, on both sides of a comparison."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

NAME = "sliding_window"  # of configurations, of transformers' attention modules and of ours


def window_of(model: PreTrainedModel) -> int:
    """In tokens; 0 without one."""
    return getattr(model.config, NAME, None) or 0


@contextmanager
def narrowed(model: PreTrainedModel, window: int | None) -> Iterator[None]:
    """Layers that slide, and the masks of those that take one, have this window in the block. None: as they are.

    The kernels get it as an argument at every call; what is recorded has the one of its time.
    """
    found: dict[int, tuple[object, int]] = {}
    for part in () if window is None else (model, *model.modules()):
        for holder in (part, getattr(part, "config", None)):
            held = getattr(holder, NAME, None)
            if isinstance(held, int) and held:
                found.setdefault(id(holder), (holder, held))
    try:
        for holder, _ in found.values():
            setattr(holder, NAME, window)
        yield
    finally:
        for holder, held in found.values():
            setattr(holder, NAME, held)
