"""The shapes of recorded steps with prompts in them, and what the host sends to fill one."""

import pytest
import torch

from truss_model.engine.execution.batch import Layout
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.mixed_fields import MixedFields, MixedShape, mixed_shapes
from truss_model.engine.execution.row_slots import RowSlots
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import PENDING, Row
from truss_model.engine.scheduling.scheduler import Chunk


def limits_of(rows: int, budget: int, length: int) -> Limits:
    return Limits(length, max_rows=rows, token_budget=budget, long_prefill=8192, page_size=16, pages=1000)


@pytest.mark.parametrize(
    ("limits", "tokens", "decodes"),
    [
        pytest.param(limits_of(256, 2048, 32768), [16, 32, 64, 128, 192, 256, 384, 512], {8, 15, 31, 63, 127, 191, 255},
                     id="a large GPU"),
        pytest.param(limits_of(64, 100, 8192), [16, 32, 64, 100], {8, 15, 31, 63}, id="a small budget"),
        pytest.param(limits_of(64, 128, 8192), [16, 32, 64, 128], {8, 15, 31, 63}, id="a budget that is a size"),
        pytest.param(limits_of(6, 256, 8192), [16, 32, 64, 128, 192, 256], {5}, id="few rows"),
        pytest.param(limits_of(2, 2048, 20), [16, 32, 40], {1}, id="short rows"),
        pytest.param(limits_of(1, 8, 8192), [8], {1}, id="one row"),
    ],
)  # fmt: skip
def test_shapes(limits: Limits, tokens: list[int], decodes: set[int]) -> None:
    shapes = mixed_shapes(limits)
    assert sorted({shape.tokens for shape in shapes}) == tokens
    assert {shape.decodes for shape in shapes} == decodes
    assert shapes == sorted(shapes) and len({*shapes}) == len(shapes)
    for shape in shapes:
        assert shape.sampled <= min(limits.max_rows, shape.tokens)
        assert shape.prompts == min(16, limits.max_rows)


def row(tokens: list[int], pages: list[int]) -> Row:
    return Row(Generation(1, 1, lambda *_: None), 0, tokens, len(tokens), SamplingParams(), 0, pages=pages)


def test_lines_of_a_step() -> None:
    """Two of three rows that may decode, one of two prompts; what was there before is overwritten."""
    first, second, prompt = row([1, 2, PENDING], [4]), row([5] * 17, [6, 7]), row([8, 9, 10, 11, 12, 13], [1, 2])
    chunks = [Chunk(first, 2, 1, True), Chunk(second, 16, 1, True), Chunk(prompt, 2, 3, False)]
    slots = RowSlots(6, 4)
    places = slots.hold([first, second, prompt])
    shape = MixedShape(tokens=8, decodes=3, prompts=2, sampled=4)
    fields = MixedFields([shape], torch.device("cpu"))
    for line in fields.host.values():
        line[:] = 99
    fields.fill(shape, chunks, Layout.of(chunks), places, slots, {id(first): 5}, page_size=16, padding_page=50)
    fields.upload()
    a, b, c = places.tolist()
    assert {name: line.tolist() for name, line in fields.lines.items()} == {
        "token": [0, 5, 10, 11, 12, 0, 0, 0],
        "source": [5, -1, -1, -1, -1, -1, -1, -1],
        "position": [2, 16, 2, 3, 4, 0, 0, 0],
        "kv_slot": [66, 112, 18, 19, 20, 800, 800, 800],
        "owner": [a, b, c, c, c, 6, 6, 6],
        "start": [0, 1, 2, 2, 5, 5, 8],
        "context": [3, 17, 0, 5, 0, 0],
        "row": [a, b, 6, c, 6, 6],
        "sampled": [0, 1, 0, 0],
    }
