"""Tests on a real Ray cluster: `make test-fleet`, in the environment of its users. Elsewhere they are not collected."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]


@pytest.fixture(scope="module")
def fleet(tiny_mistral: Path) -> Iterator[object]:
    from tests.fleet.cluster import running_fleet

    with running_fleet(tiny_mistral) as fleet:
        yield fleet
