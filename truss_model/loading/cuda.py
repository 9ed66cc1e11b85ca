"""Whether torch can use a GPU here, and if not why: torch's own reason, the driver's version, and the least one."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

DRIVER_FILE = Path("/proc/driver/nvidia/version")
# Least driver of every CUDA release of a major version: NVIDIA's "CUDA Compatibility", minor version compatibility.
LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True, slots=True)
class CudaState:
    """torch: its version. built_for: that build's CUDA version. driver: of the host. fault: None if all is well."""

    torch: str
    built_for: str | None
    driver: str | None
    fault: str | None

    @property
    def usable(self) -> bool:
        return self.fault is None

    def explain(self) -> str:
        """One or two sentences that say why no GPU is usable, and what driver this torch needs."""
        told = f"torch says: {self.fault}" if self.fault else "torch finds one."
        if self.built_for is None:
            return f"{told} This torch ({self.torch}) is built without CUDA."
        found = f"The host's NVIDIA driver is {self.driver}" if self.driver else "The host has no NVIDIA driver"
        least = LEAST_DRIVERS.get(int(self.built_for.partition(".")[0]))
        needs = f"{least} or newer" if least else "a newer one"
        return f"{told} {found}; torch {self.torch} for CUDA {self.built_for} needs {needs}."


def cuda_state(driver_file: Path = DRIVER_FILE) -> CudaState:
    """Ask torch, which initialises CUDA where it can."""
    fault = None
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            fault = "No CUDA GPUs are available."
        except (RuntimeError, AssertionError) as error:
            fault = _sentence(str(error))
    return CudaState(torch.__version__, torch.version.cuda, driver_version(driver_file), fault)


def driver_version(file: Path) -> str | None:
    """From the kernel module's own line: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  ..."."""
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?(\d+\.\d+(?:\.\d+)?)", file.read_text())
    except OSError:
        return None
    return found[1] if found else None


def _sentence(text: str) -> str:
    """The first line, up to where torch begins to recommend downloads."""
    words = text.strip().partition("\n")[0].partition(" Please update")[0]
    return words if words.endswith(".") else f"{words}."
