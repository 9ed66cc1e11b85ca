"""The numbers that the host tells a step about its rows, in one upload. Knows what they are called, not what they mean.

Recorded steps read them at the same addresses every time.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

LINES = ("token", "source", "position", "kv_slot", "context", "row", "mask")


class Lines:
    """Lines of int32, each by its name, in one buffer: `lines` on the device, `host` for the next step."""

    def __init__(self, lengths: Mapping[str, int], device: torch.device) -> None:
        self._host = np.zeros(sum(lengths.values()), np.int32)
        self._device = torch.zeros(len(self._host), dtype=torch.int32, device=device)
        self.host: dict[str, npt.NDArray[np.int32]] = {}
        self.lines: dict[str, torch.Tensor] = {}
        end = 0
        for name, length in lengths.items():
            begin, end = end, end + length
            self.host[name], self.lines[name] = self._host[begin:end], self._device[begin:end]

    def upload(self) -> None:
        """Send all lines, not waited for."""
        upload(self._host, self._device)


class StepFields(Lines):
    """LINES of int32 [rows] each, and `uniform`, float64 [rows].

    token, source, position, kv_slot, context: of the row's newest token, for a recorded decode step. context, row,
    mask, uniform: for sampling; `row` is the slot of the row, `mask` the index of its grammar's mask, -1 without one.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        # The float64 line is first, so that it is aligned whatever the number of rows.
        super().__init__({"uniform": 2 * rows, **dict.fromkeys(LINES, rows)}, device)
        self.host_uniform: npt.NDArray[np.float64] = self.host["uniform"].view(np.float64)
        self.uniform = self.lines["uniform"].view(torch.float64)


def upload(array: "npt.NDArray[np.generic]", into: torch.Tensor) -> None:
    """Fill a tensor of the device from the host, not waited for; torch keeps page-locked memory until it is done."""
    tensor = torch.from_numpy(array)
    into.copy_(tensor if into.device.type == "cpu" else tensor.pin_memory(), non_blocking=True)
