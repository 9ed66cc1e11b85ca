"""What the host tells a recorded step of prompts and rows that decode: static shapes, and the numbers that fill them.

The rows of such a step are those that decode, then prompts, then one that owns the tokens which only fill the step up.
Rows that are not in use have no token and context 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.execution.batch import Layout
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.execution.step_fields import Lines
from truss_model.engine.scheduling.row import PENDING
from truss_model.engine.scheduling.scheduler import Chunk

SIZES = (16, 32, 64, 128, 192, 256, 384, 512)  # tokens; what takes a GPU longer than the host is not recorded
FEW_DECODES = 8  # the attention of few rows is split over more programs each
MOST_PROMPTS = 16
CHECKED_TOKENS = 256  # of a row, in the text that recordings are checked with


class MixedShape(NamedTuple):
    """Most tokens, rows that decode, prompts and sampled tokens of a recorded step."""

    tokens: int
    decodes: int
    prompts: int
    sampled: int

    @property
    def rows(self) -> int:
        return self.decodes + self.prompts + 1

    def holds(self, tokens: int, decodes: int, prompts: int) -> bool:
        return tokens <= self.tokens and decodes <= self.decodes and prompts <= self.prompts


def mixed_shapes(limits: Limits) -> list[MixedShape]:
    """All that are recorded, the smaller ones first: sizes of tokens, each for few rows that decode and for many."""
    most = min(SIZES[-1], limits.token_budget, limits.max_rows * min(limits.max_model_len, CHECKED_TOKENS))
    rows, prompts = limits.max_rows, min(MOST_PROMPTS, limits.max_rows)
    shapes = []
    for tokens in [*(size for size in SIZES if size < most), most]:
        many = max(1, min(rows, tokens) - 1)  # one row at least is a prompt
        for decodes in sorted({min(FEW_DECODES, many), many}):
            shapes.append(MixedShape(tokens, decodes, prompts, min(decodes + prompts, rows, tokens)))
    return shapes


class MixedFields(Lines):
    """Of each token: token, source, position, kv_slot, owner, the slot of its row. Of each row: start, the first of its
    tokens, with the end of the last row's; context; row, its slot. sampled: the tokens that are sampled from.

    source: the index of the token in the last step's tokens, -1 where `token` is known.
    """

    def __init__(self, shapes: Sequence[MixedShape], device: torch.device) -> None:
        tokens, rows = max(shape.tokens for shape in shapes), max(shape.rows for shape in shapes)
        lengths = dict.fromkeys(("token", "source", "position", "kv_slot", "owner"), tokens)
        lengths |= {"start": rows + 1, "context": rows, "row": rows, "sampled": max(shape.sampled for shape in shapes)}
        super().__init__(lengths, device)

    def fill(
        self,
        shape: MixedShape,
        chunks: Sequence[Chunk],
        at: Layout,
        slots: npt.NDArray[np.int64],
        tables: RowSlots,
        places: dict[int, int],
        page_size: int,
        padding_page: int,
    ) -> None:
        """at, slots: of the chunks. places: by id of a row, the index of its token among those of the last step."""
        host, used = self.host, len(at.tokens)
        tokens, owner = np.array(at.tokens, np.int64), slots[at.owner]
        host["token"][:used], host["token"][used:] = np.maximum(tokens, 0), 0
        host["source"][:] = -1
        for i in np.flatnonzero(tokens == PENDING).tolist():
            host["source"][i] = places[id(chunks[at.owner[i]].row)]
        host["position"][:used], host["position"][used:] = at.positions, 0
        pages = tables.tables[owner, at.positions // page_size].astype(np.int64)
        host["kv_slot"][:used] = pages * page_size + at.positions % page_size
        host["kv_slot"][used:] = padding_page * page_size
        host["owner"][:used], host["owner"][used:] = owner, tables.spare
        row = np.arange(len(chunks))
        row[at.decodes :] += shape.decodes - at.decodes
        host["start"][:], host["context"][:], host["row"][:] = used, 0, tables.spare
        host["start"][at.decodes : shape.decodes] = at.decodes
        host["start"][row], host["context"][row], host["row"][row] = at.starts[:-1], at.begins + at.counts, slots
        host["start"][shape.rows] = shape.tokens
        ends = at.starts[1:][[chunk.samples for chunk in chunks]] - 1
        host["sampled"][: len(ends)], host["sampled"][len(ends) :] = ends, 0
