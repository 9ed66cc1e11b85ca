"""The soak's short form, on the stack of the other tests."""

import os
from pathlib import Path

import pytest

from tests.e2e.soak import soak, stack

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))


@pytest.mark.timeout(900)
async def test_mixed_traffic_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with stack(tmp_path) as (truss, adapter):
        report = await soak(truss, adapter, MINUTES)
    print(report.table())
    assert report.faults(memory_growth=0.05) == []
