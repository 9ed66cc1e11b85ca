"""Remembers, in the cache folder, on which rung a model may start after a fault that took its process's GPU away."""

import hashlib
import json
import logging
import time
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from truss_model.engine.execution.cache_folder import cache_folder

logger = logging.getLogger(__name__)


# What calls of CUDA and launches of Triton raise, and what it says where the process can go on: something was refused.
# A recording that was broken off is not among them: torch leaves its stream and its pool as they are amidst it.
FAULTS = ("CUDA error", "Triton Error [CUDA]")
REFUSALS = (
    "out of memory", "invalid argument", "invalid configuration argument", "too many resources requested",
    "no kernel image is available", "kernel image is invalid", "invalid device function", "unsupported toolchain",
    "operation not supported", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_INVALID_VALUE", "CUBLAS_STATUS_NOT_INITIALIZED",
)  # fmt: skip


def poisons(error: BaseException) -> bool:
    """Whether a process cannot use its GPU any more after this error, or after one that led to it."""
    said = str(error).partition("\n")[0]
    if isinstance(error, torch.AcceleratorError) or any(fault in said for fault in FAULTS):
        if not isinstance(error, torch.OutOfMemoryError) and not any(refusal in said for refusal in REFUSALS):
            return True
    before = error.__cause__ or error.__context__
    return before is not None and poisons(before)


def fault_record(model: PreTrainedModel) -> "FaultRecord | None":
    """The record of a model on its GPU; None on the CPU, whose faults a process survives or takes nothing with it."""
    if model.device.type != "cuda":
        return None
    device = f"{torch.cuda.get_device_name(model.device)} {torch.version.cuda}"
    return FaultRecord(cache_folder(), model, device)


class FaultRecord:
    """One file for each model on each kind of device with each set of versions. Deleting it forgets the fault."""

    def __init__(self, folder: Path, model: PreTrainedModel, device: str) -> None:
        parts = (model.config.to_json_string(), str(model.dtype), device, torch.__version__, transformers.__version__)
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        self.path = folder / "faults" / f"{digest}.json"

    def rung(self) -> str | None:
        """Where to start, if not at the top."""
        try:
            found = json.loads(self.path.read_text())
            rung, fault = str(found["rung"]), str(found["fault"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        logger.warning("Starting with '%s', as a process before ended with: %s. Delete %s to try all kernels again.",
                       rung, fault, self.path)  # fmt: skip
        return rung

    def remember(self, rung: str, error: BaseException) -> None:
        """Written whole or not at all; a folder that cannot be written is told and no fault of its own."""
        fault = {"rung": rung, "fault": str(error).partition("\n")[0], "at": time.strftime("%Y-%m-%d %H:%M:%S")}
        partial = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(fault))
            partial.replace(self.path)
        except OSError:
            logger.exception("The fault cannot be remembered in %s: the next process tries the same again.", self.path)
