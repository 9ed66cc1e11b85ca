"""A package kept out of sight counts as not installed, for as long as the block lasts."""

import importlib.util
import sys
from collections.abc import Iterator

import pytest

from truss_model.import_block import import_block

PACKAGE = "colorsys"  # any module that nothing here needs


@pytest.fixture(autouse=True)
def unimported() -> Iterator[None]:
    sys.modules.pop(PACKAGE, None)
    yield
    sys.modules.pop(PACKAGE, None)


def test_in_the_block_it_is_not_installed() -> None:
    with import_block(PACKAGE):
        assert importlib.util.find_spec(PACKAGE) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(PACKAGE)
    assert importlib.import_module(PACKAGE).rgb_to_hls


def test_what_is_imported_already_stays() -> None:
    module = importlib.import_module(PACKAGE)
    with import_block(PACKAGE):
        assert importlib.import_module(PACKAGE) is module
    assert sys.modules[PACKAGE] is module
