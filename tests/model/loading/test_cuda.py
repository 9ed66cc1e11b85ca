from pathlib import Path

import pytest
import torch

from truss_model.loading.cuda import CudaState, cuda_state, driver_version

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build  (root@host)\nGCC version:\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:\n"


@pytest.mark.parametrize(("text", "version"), [(OPEN, "575.57.08"), (CLOSED, "535.183.01"), ("odd", None)])
def test_the_drivers_version_is_read_from_the_kernel(tmp_path: Path, text: str, version: str | None) -> None:
    file = tmp_path / "version"
    file.write_text(text)
    assert driver_version(file) == version


def test_a_host_without_a_driver(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "version") is None
    told = CudaState("2.13.0+cu126", "12.6", None, "Found no NVIDIA driver on your system.").explain()
    assert told == (
        "torch says: Found no NVIDIA driver on your system. The host has no NVIDIA driver; torch 2.13.0+cu126 for CUDA "
        "12.6 needs 525 or newer."
    )


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built with CUDA")
def test_a_torch_without_cuda_says_so() -> None:
    state = cuda_state()
    assert not state.usable
    assert state.explain() == (
        f"torch says: Torch not compiled with CUDA enabled. This torch ({torch.__version__}) is built without CUDA."
    )
