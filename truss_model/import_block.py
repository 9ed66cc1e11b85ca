"""Keeps an optional package out of the process while others are imported that would import it wherever it is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def import_block(package: str) -> Iterator[None]:
    """In the block the package counts as not installed; one that has been imported already stays as it is."""
    if package in sys.modules:
        yield
        return
    # As the import system documents it: find_spec answers None for such an entry, and an import fails.
    sys.modules[package] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules[package]
