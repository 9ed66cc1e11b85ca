"""A GPU's memory as the engine plans with it: what is free, what is cached, and what a piece of work takes at most."""

from collections.abc import Callable
from typing import Protocol

import torch


class DeviceMemory(Protocol):
    """Bytes. Allocations are cached by whole blocks: what is freed is not free for others before `release`."""

    def free(self) -> int:
        """Free for new blocks, after a `release`."""

    def release(self) -> None:
        """Give back the blocks that are cached and hold nothing."""

    def peak(self, work: Callable[[], object]) -> int:
        """Do the work; the most that was taken in blocks at one time, beyond what was taken before."""


class CudaMemory:
    """The memory of a CUDA device under torch's caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        self.release()
        free, _ = torch.cuda.mem_get_info(self._device)
        return int(free)

    def release(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def peak(self, work: Callable[[], object]) -> int:
        self.release()
        before = torch.cuda.memory_reserved(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        return int(torch.cuda.max_memory_reserved(self._device)) - before


def device_memory(device: torch.device) -> DeviceMemory | None:
    """None for the CPU, whose memory is the host's."""
    return CudaMemory(device) if device.type == "cuda" else None
