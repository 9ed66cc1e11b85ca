"""Which errors end a process's use of its GPU, and where the next process finds that."""

from pathlib import Path

import pytest
import torch

from truss_model.engine.execution.cache_folder import cache_folder
from truss_model.engine.execution.fault_record import poisons

ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call.\nout of memory"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{ADVICE}"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    ],
    ids=str,
)
def test_faults_that_stay(error: Exception) -> None:
    assert poisons(error)
    try:
        try:
            raise error
        except Exception:
            raise ValueError("another one, on the way out")  # noqa: B904
    except ValueError as later:
        assert poisons(later)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        RuntimeError("out of resource: shared memory, Required: 163840, Hardware limit: 101376."),
        ValueError("mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=str,
)
def test_refusals_after_which_the_process_goes_on(error: Exception) -> None:
    assert not poisons(error)


def test_processes_that_cannot_write_their_cache_share_another_folder(tmp_path: Path) -> None:
    """Or the next process would know nothing of the fault that ended the last one."""
    file = tmp_path / "file"
    file.touch()
    nowhere = {"XDG_CACHE_HOME": str(file)}
    first = cache_folder(nowhere, tmp_path)
    assert first.is_relative_to(tmp_path) and first.stat().st_mode & 0o077 == 0
    assert cache_folder(nowhere, tmp_path) == first


def test_a_shared_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    nowhere = {"XDG_CACHE_HOME": str(file)}
    first = cache_folder(nowhere, tmp_path)
    first.chmod(0o777)
    assert cache_folder(nowhere, tmp_path) != first


def test_a_cache_that_can_be_written_is_used(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "new")}) == tmp_path / "new" / "truss-openai-bridge"
