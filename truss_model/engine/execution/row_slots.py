"""A number for every row of a step, which it keeps while it lives, and the block tables by these numbers.

What belongs to a row for longer than a step (its pages, its sampling parameters, its token counts) stays where it is
when other rows come and go. Knows no tensors.
"""

import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from truss_model.engine.scheduling.row import Row


class RowSlots:
    """`tables`: int32 [max_rows + 1, max_pages], the pages of each slot's row. `spare` is the slot of padding rows.

    `tenancies`: int64 [max_rows + 1]; another number than before means that the slot's row has come since, or has come
    back after a preemption.
    """

    def __init__(self, max_rows: int, max_pages: int) -> None:
        self.spare = max_rows
        self.tables: npt.NDArray[np.int32] = np.zeros((max_rows + 1, max_pages), np.int32)
        self.tenancies: npt.NDArray[np.int64] = np.zeros(max_rows + 1, np.int64)
        self._holders: list[weakref.ref[Row] | None] = [None] * max_rows
        self._admissions = [0] * max_rows
        self._filled = [0] * max_rows
        self._free = list(reversed(range(max_rows)))

    def hold(self, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        """The slots of all rows of a step, at most max_rows different ones; their tables hold all their pages."""
        holders, filled = self._holders, self._filled
        for row in rows:
            slot = row.slot
            holder = holders[slot] if 0 <= slot < self.spare else None
            if holder is None or holder() is not row:
                slot = self._assign(row, rows)
            elif self._admissions[slot] != row.admissions:
                self._begin(slot, row)
            if len(row.pages) != filled[slot]:
                self.tables[slot, filled[slot] : len(row.pages)] = row.pages[filled[slot] :]
                filled[slot] = len(row.pages)
        return np.fromiter((row.slot for row in rows), np.int64, len(rows))

    def block_tables(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [slots, pages of the longest]."""
        longest = max(self._filled[slot] for slot in slots.tolist())
        return self.tables[slots, :longest]

    def _assign(self, row: Row, rows: Sequence[Row]) -> int:
        if not self._free:
            self._reclaim(rows)
        slot = row.slot = self._free.pop()
        self._holders[slot] = weakref.ref(row)
        self._begin(slot, row)
        return slot

    def _begin(self, slot: int, row: Row) -> None:
        self.tenancies[slot] += 1
        self._admissions[slot] = row.admissions
        self._filled[slot] = 0

    def _reclaim(self, rows: Sequence[Row]) -> None:
        """Free the slots of rows that have left, and of those that wait: they come back with all their tokens known."""
        staying = {id(row) for row in rows}
        for slot, holder in enumerate(self._holders):
            row = holder() if holder is not None else None
            if row is None or id(row) not in staying:
                self._holders[slot] = None
                self._free.append(slot)
