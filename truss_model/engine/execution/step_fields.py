"""The numbers that the host tells a step about its rows, in one upload. Knows what they are called, not what they mean.

Recorded steps read them at the same addresses every time.
"""

import numpy as np
import numpy.typing as npt
import torch

LINES = ("token", "source", "position", "kv_slot", "context", "row", "mask")


class StepFields:
    """Lines of int32 [rows], each by its name, and `uniform`, float64 [rows]: on the device; `host`: for the next step.

    token, source, position, kv_slot, context: of the row's newest token, for a recorded forward. context, row, mask,
    uniform: for sampling; `row` is the slot of the row, `mask` the index of its grammar's mask, -1 without one.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        # The float64 line is first, so that it is aligned whatever the number of rows.
        self._host = np.zeros((2 + len(LINES), rows), np.int32)
        self._device = torch.zeros(2 + len(LINES), rows, dtype=torch.int32, device=device)
        self.host: dict[str, npt.NDArray[np.int32]] = {name: self._host[2 + i] for i, name in enumerate(LINES)}
        self.host_uniform: npt.NDArray[np.float64] = self._host[:2].reshape(-1).view(np.float64)
        self.lines: dict[str, torch.Tensor] = {name: self._device[2 + i] for i, name in enumerate(LINES)}
        self.uniform = self._device[:2].view(-1).view(torch.float64)

    def upload(self) -> None:
        """Send all lines, not waited for."""
        upload(self._host, self._device)


def upload(array: "npt.NDArray[np.generic]", into: torch.Tensor) -> None:
    """Fill a tensor of the device from the host, not waited for; torch keeps page-locked memory until it is done."""
    tensor = torch.from_numpy(array)
    into.copy_(tensor if into.device.type == "cpu" else tensor.pin_memory(), non_blocking=True)
