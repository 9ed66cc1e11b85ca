"""The block tables of all rows on the device, by slot, for recorded steps. Knows no plans."""

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.batch import to_device
from truss_model.engine.execution.row_slots import RowSlots


class DeviceTables:
    """`tables`: int32 [max_rows + 1, max_pages].

    A recorded forward writes the pages of its own tokens itself: whole tables are sent when a row comes, or comes back
    from steps that were not recorded.
    """

    def __init__(self, slots: RowSlots, device: torch.device) -> None:
        self.tables = torch.zeros(slots.tables.shape, dtype=torch.int32, device=device)
        self._slots = slots
        self._sent = np.zeros(slots.spare + 1, np.int64)  # pages of each slot that the device has
        self._tenancies = np.full(slots.spare + 1, -1, np.int64)

    def send(self, slots: npt.NDArray[np.int64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> None:
        """Before a recorded forward whose tokens are in pages first .. last of each of these slots' rows."""
        fresh = self._tenancies[slots] != self._slots.tenancies[slots]
        behind = slots[fresh | (self._sent[slots] < first)]
        if len(behind):
            device = self.tables.device
            self.tables.index_copy_(0, to_device(behind, device), to_device(self._slots.tables[behind], device))
            self._tenancies[behind] = self._slots.tenancies[behind]
        self._sent[slots] = last + 1
