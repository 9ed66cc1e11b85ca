"""For the tests of the GPU's path."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def memory_of_nan() -> Iterator[None]:
    """New tensors that nobody fills hold NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
