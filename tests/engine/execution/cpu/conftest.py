"""The C kernels, built for this machine."""

import ctypes

import pytest

from truss_model.engine.execution.cpu.build import kernels


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    built = kernels()
    assert built is not None, "the kernels must build where the tests run: is there a C compiler?"
    return built
