# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Scores -> the sums of their shares, and the tokens that come into question: without sorting the vocabulary.

Rows with top_k or top_p are drawn for in falling order of the scores: the tokens within some reach of the highest, as
many as are needed, are put together for choose.py. Other rows get their token here, in the order of the ids.
"""

import triton
import triton.language as tl

from truss_model.engine.execution.cuda.scores import LEAST, TEMPERATURE, TOP_K, TOP_P
from truss_model.engine.execution.cuda.shares import ordered, shares_of, value_of

REACHES = tl.constexpr(8)
SCALE = tl.constexpr(1 - 1e-12)  # as in sampling.py


@triton.jit
def reach_of(index):
    """2, 4, ... 14, and everything that has a share."""
    return tl.where(index < 7, 2 * (index + 1), 32).to(tl.float32)


@triton.jit
def likeliest_of(highest, row, parts, PARTS: tl.constexpr):
    """first_of_highest of a whole row."""
    part = tl.arange(0, PARTS)
    return tl.max(tl.load(highest + row * parts + part, mask=part < parts, other=-(1 << 63)), 0)


@triton.jit
def is_drawn(numbers, value):
    """Whether the row has to be drawn for; else it gets the likeliest token."""
    return (tl.load(numbers + TEMPERATURE) != 0) & (tl.abs(value) < float("inf"))


@triton.jit
def is_ordered(numbers):
    return (tl.load(numbers + TOP_K) > 0) | (tl.load(numbers + TOP_P) < 1)


@triton.jit
def last_of_top_p(top_p, whole):
    """The last position of the cumulated shares that is kept: below top_p of the whole, of the first token at least."""
    upto = top_p.to(tl.float64) * whole.to(tl.float64)
    position = upto.to(tl.int64)
    return tl.maximum(tl.where(position.to(tl.float64) < upto, position, position - 1), 0)


@triton.jit
def position_of(uniform, whole):
    """Below the whole, as the uniform number is below 1. The token there is the first to exceed it."""
    return (uniform * SCALE * whole.to(tl.float64)).to(tl.int64)


# Groups of rows begin anywhere: no reason to compile again.
@triton.jit(do_not_specialize_on_alignment=["slots"])
def measure(
    scores, highest, numbers, slots, sums, counts,
    VOCAB: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A program a block of a row: the shares of its tokens, together, and how many they are: of ordered rows within
    each reach, of others those of the least score."""
    row, block, parts = tl.program_id(1).to(tl.int64), tl.program_id(0), tl.num_programs(0)
    numbers += tl.load(slots + row).to(tl.int64) * NUMBERS
    top = value_of(likeliest_of(highest, row, parts, PARTS))
    if is_drawn(numbers, top):
        ids = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(scores + row * VOCAB + ids, mask=ids < VOCAB, other=float("-inf"))
        shares = shares_of(top - x)
        at = (row * parts + block) * REACHES
        if is_ordered(numbers):
            for i in tl.static_range(REACHES):
                near = top - x <= reach_of(i)
                tl.store(sums + at + i, tl.sum(tl.where(near, shares, 0), 0))
                tl.store(counts + at + i, tl.sum(near.to(tl.int32), 0))
        else:
            tl.store(sums + at, tl.sum(tl.where(x >= top + tl.load(numbers + LEAST), shares, 0), 0))


@triton.jit
def enough_of(sums, counts, numbers, row, parts, PARTS: tl.constexpr):
    """Of an ordered row the index of the reach that holds all tokens it may get, and their number and shares."""
    part, reach = tl.arange(0, PARTS)[:, None], tl.arange(0, REACHES)
    at = (row * parts + part) * REACHES + reach[None, :]
    sum_ = tl.sum(tl.load(sums + at, mask=part < parts, other=0), 0)
    count = tl.sum(tl.load(counts + at, mask=part < parts, other=0), 0)
    whole = tl.max(sum_, 0)
    top_k = tl.load(numbers + TOP_K)
    held = tl.where(top_k > 0, count.to(tl.float32) >= top_k, sum_ > last_of_top_p(tl.load(numbers + TOP_P), whole))
    index = tl.min(tl.where(held | (reach == REACHES - 1), reach, REACHES), 0)
    here = reach == index
    return index, tl.sum(tl.where(here, count, 0), 0), tl.sum(tl.where(here, sum_, 0), 0), whole


@triton.jit(do_not_specialize_on_alignment=["slots", "uniform", "tokens"])
def gather(
    scores, highest, numbers, slots, uniform, sums, counts, near_keys, near_ids, near_shares, tokens,
    VOCAB: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A program a block of a row: puts those of its tokens together, in their order, that an ordered row may get; finds
    the token of another row, if it is here."""
    row, block, parts = tl.program_id(1).to(tl.int64), tl.program_id(0), tl.num_programs(0)
    numbers += tl.load(slots + row).to(tl.int64) * NUMBERS
    top = value_of(likeliest_of(highest, row, parts, PARTS))
    if is_drawn(numbers, top):
        part = tl.arange(0, PARTS)
        at = (row * parts + part) * REACHES
        ids = block * BLOCK + tl.arange(0, BLOCK)
        line = row * VOCAB
        if is_ordered(numbers):
            index, _, _, _ = enough_of(sums, counts, numbers, row, parts, PARTS)
            count = tl.load(counts + at + index, mask=part <= block, other=0)
            first = tl.sum(tl.where(part < block, count, 0), 0)
            if tl.sum(count, 0) > first:
                x = tl.load(scores + line + ids, mask=ids < VOCAB, other=float("-inf"))
                near = top - x <= reach_of(index)
                place = line + first + tl.cumsum(near.to(tl.int32), 0) - 1
                tl.store(near_keys + place, ordered(x + 0.0), mask=near)
                tl.store(near_ids + place, ids, mask=near)
                tl.store(near_shares + place, shares_of(top - x), mask=near)
        else:
            sum_ = tl.load(sums + at, mask=part < parts, other=0)
            position = position_of(tl.load(uniform + row), tl.sum(sum_, 0))
            position -= tl.sum(tl.where(part < block, sum_, 0), 0)
            if (position >= 0) & (position < tl.sum(tl.where(part == block, sum_, 0), 0)):
                x = tl.load(scores + line + ids, mask=ids < VOCAB, other=float("-inf"))
                shares = tl.where(x >= top + tl.load(numbers + LEAST), shares_of(top - x), 0)
                before = tl.sum((tl.cumsum(shares, 0) <= position).to(tl.int32), 0)
                tl.store(tokens + row, (block * BLOCK + before).to(tl.int64))
