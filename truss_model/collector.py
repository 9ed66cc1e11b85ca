"""The garbage collector beside a large model."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No collection in the block; what is alive at its end is never looked at again.

    torch, transformers and a tokenizer are some 450,000 objects that stay: collecting among them is a fifth of the
    time to load, and every full collection later would stop all threads for 0.2 to 0.5 seconds.
    """
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
        gc.collect()  # of nothing: a full collection waits for a quarter as many new objects as the last one left
    finally:
        gc.enable()
