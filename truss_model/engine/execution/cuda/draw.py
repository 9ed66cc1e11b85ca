# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Scores -> tokens, without sorting the vocabulary: three kernels, each over the sums that the one before has made.

Rows with top_k or top_p are drawn for in falling order of the scores: of the tokens within some reach of the highest,
as many as are needed, the one at a position of the cumulated shares is found by narrowing the range of its key.
"""

import triton
import triton.language as tl

from truss_model.engine.execution.cuda.scores import COUNTED, LEAST, TEMPERATURE, TOP_K, TOP_P
from truss_model.engine.execution.cuda.shares import id_of, ordered, shares_of, unordered, value_of

REACHES = tl.constexpr(8)
WAYS = tl.constexpr(8)  # parts of a range that one pass tells apart
SCALE = tl.constexpr(1 - 1e-12)  # as in sampling.py


@triton.jit
def _reach(index):
    """2, 4, ... 14, and everything that has a share."""
    return tl.where(index < 7, 2 * (index + 1), 32).to(tl.float32)


@triton.jit
def _likeliest(highest, row, parts, PARTS: tl.constexpr):
    """first_of_highest of a whole row."""
    part = tl.arange(0, PARTS)
    return tl.max(tl.load(highest + row * parts + part, mask=part < parts, other=-(1 << 63)), 0)


@triton.jit
def _drawn(numbers, value):
    """Whether the row has to be drawn for; else it gets the likeliest token."""
    return (tl.load(numbers + TEMPERATURE) != 0) & (tl.abs(value) < float("inf"))


@triton.jit
def _ordered_row(numbers):
    return (tl.load(numbers + TOP_K) > 0) | (tl.load(numbers + TOP_P) < 1)


@triton.jit
def _before_top_p(top_p, whole):
    """The last position of the cumulated shares that is kept: below top_p of the whole, of the first token at least."""
    upto = top_p.to(tl.float64) * whole.to(tl.float64)
    position = upto.to(tl.int64)
    return tl.maximum(tl.where(position.to(tl.float64) < upto, position, position - 1), 0)


@triton.jit
def _position(uniform, whole):
    """Below the whole, as the uniform number is below 1. The token there is the first whose cumulated share exceeds."""
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
    top = value_of(_likeliest(highest, row, parts, PARTS))
    if _drawn(numbers, top):
        ids = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(scores + row * VOCAB + ids, mask=ids < VOCAB, other=float("-inf"))
        shares = shares_of(top - x)
        at = (row * parts + block) * REACHES
        if _ordered_row(numbers):
            for i in tl.static_range(REACHES):
                near = top - x <= _reach(i)
                tl.store(sums + at + i, tl.sum(tl.where(near, shares, 0), 0))
                tl.store(counts + at + i, tl.sum(near.to(tl.int32), 0))
        else:
            tl.store(sums + at, tl.sum(tl.where(x >= top + tl.load(numbers + LEAST), shares, 0), 0))


@triton.jit
def _enough(sums, counts, numbers, row, parts, PARTS: tl.constexpr):
    """Of an ordered row the index of the reach that holds all tokens it may get, and their number and shares."""
    part, reach = tl.arange(0, PARTS)[:, None], tl.arange(0, REACHES)
    at = (row * parts + part) * REACHES + reach[None, :]
    sum_ = tl.sum(tl.load(sums + at, mask=part < parts, other=0), 0)
    count = tl.sum(tl.load(counts + at, mask=part < parts, other=0), 0)
    whole = tl.max(sum_, 0)
    top_k = tl.load(numbers + TOP_K)
    held = tl.where(top_k > 0, count.to(tl.float32) >= top_k, sum_ > _before_top_p(tl.load(numbers + TOP_P), whole))
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
    top = value_of(_likeliest(highest, row, parts, PARTS))
    if _drawn(numbers, top):
        part = tl.arange(0, PARTS)
        at = (row * parts + part) * REACHES
        ids = block * BLOCK + tl.arange(0, BLOCK)
        line = row * VOCAB
        if _ordered_row(numbers):
            index, _, _, _ = _enough(sums, counts, numbers, row, parts, PARTS)
            count = tl.load(counts + at + index, mask=part <= block, other=0)
            first = tl.sum(tl.where(part < block, count, 0), 0)
            if tl.sum(count, 0) > first:
                x = tl.load(scores + line + ids, mask=ids < VOCAB, other=float("-inf"))
                near = top - x <= _reach(index)
                place = line + first + tl.cumsum(near.to(tl.int32), 0) - 1
                tl.store(near_keys + place, ordered(x + 0.0), mask=near)
                tl.store(near_ids + place, ids, mask=near)
                tl.store(near_shares + place, shares_of(top - x), mask=near)
        else:
            sum_ = tl.load(sums + at, mask=part < parts, other=0)
            position = _position(tl.load(uniform + row), tl.sum(sum_, 0))
            position -= tl.sum(tl.where(part < block, sum_, 0), 0)
            if (position >= 0) & (position < tl.sum(tl.where(part == block, sum_, 0), 0)):
                x = tl.load(scores + line + ids, mask=ids < VOCAB, other=float("-inf"))
                shares = tl.where(x >= top + tl.load(numbers + LEAST), shares_of(top - x), 0)
                before = tl.sum((tl.cumsum(shares, 0) <= position).to(tl.int32), 0)
                tl.store(tokens + row, (block * BLOCK + before).to(tl.int64))


@triton.jit
def _above(keys, shares, count, key, BLOCK: tl.constexpr):
    """How many of the tokens have a higher key, and their shares."""
    at = tl.arange(0, BLOCK)
    number, sum_ = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int64)
    for start in range(0, count, BLOCK):
        there = start + at < count
        high = there & (tl.load(keys + start + at, mask=there, other=0).to(tl.int64) > key)
        number += high.to(tl.int32)
        sum_ += tl.load(shares + start + at, mask=high, other=0)
    return tl.sum(number, 0).to(tl.int64), tl.sum(sum_, 0)


@triton.jit
def _find(keys, shares, count, lowest, highest, position, BY_SHARE: tl.constexpr, BLOCK: tl.constexpr):
    """The key of the token at a position of the order, or of the cumulated shares; and the number and the shares of
    those with a higher key. The position is below what all tokens have together; their keys are lowest to highest."""
    at, way = tl.arange(0, BLOCK), tl.arange(0, WAYS)
    low, high = lowest.to(tl.int64), highest.to(tl.int64) + 1
    while high - low > 1:
        step = (high - low + WAYS - 1) // WAYS
        least = low + step * (way + 1)
        passed = tl.zeros([WAYS, BLOCK], tl.int64 if BY_SHARE else tl.int32)
        for start in range(0, count, BLOCK):
            there = start + at < count
            key = tl.load(keys + start + at, mask=there, other=0).to(tl.int64)
            reached = there[None, :] & (key[None, :] >= least[:, None])
            if BY_SHARE:
                passed += tl.where(reached, tl.load(shares + start + at, mask=there, other=0)[None, :], 0)
            else:
                passed += reached.to(tl.int32)
        low += step * tl.sum((tl.sum(passed, 1) > position).to(tl.int64), 0)
        high = tl.minimum(low + step, high)
    number, sum_ = _above(keys, shares, count, low, BLOCK)
    return low, number, sum_


@triton.jit
def _kth(keys, ids, count, key, k, BLOCK: tl.constexpr):
    """The id of the kth token, from 0, of those with this key."""
    at = tl.arange(0, BLOCK)
    found = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        there = start + at < count
        equal = there & (tl.load(keys + start + at, mask=there, other=0).to(tl.int64) == key)
        here = equal & (tl.cumsum(equal.to(tl.int32), 0) - 1 == k)
        found += tl.load(ids + start + at, mask=here, other=0)
        k -= tl.sum(equal.to(tl.int64), 0)
    return tl.sum(found, 0)


@triton.jit
def _token_in_order(top, numbers, uniform, sums, counts, keys, ids, shares, row, parts,
                    PARTS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Each cut leaves the first tokens of the order: what counts is how much they have of the cumulated shares."""
    index, count, kept, whole = _enough(sums, counts, numbers, row, parts, PARTS)
    highest = ordered(top + 0.0)
    lowest = ordered(top - 2 * _reach(index) + 0.0)  # lower, whatever is rounded
    top_k, top_p = tl.load(numbers + TOP_K), tl.load(numbers + TOP_P)
    if top_k > 0:
        whole = kept
        if top_k < count.to(tl.float32):
            k = top_k.to(tl.int64)
            key, number, sum_ = _find(keys, shares, count, lowest, highest, k - 1, False, BLOCK)
            whole = sum_ + (k - number) * shares_of(top - unordered(key.to(tl.int32)))
    kept = whole
    if top_p < 1:
        position = _before_top_p(top_p, whole)
        key, number, sum_ = _find(keys, shares, count, lowest, highest, position, True, BLOCK)
        share = shares_of(top - unordered(key.to(tl.int32)))
        kept = sum_ + ((position - sum_) // share + 1) * share
    least = ordered(top + tl.load(numbers + LEAST) + 0.0).to(tl.int64)
    _, sum_ = _above(keys, shares, count, least - 1, BLOCK)
    position = _position(uniform, tl.minimum(kept, sum_))
    key, number, sum_ = _find(keys, shares, count, lowest, highest, position, True, BLOCK)
    k = (position - sum_) // shares_of(top - unordered(key.to(tl.int32)))
    return _kth(keys, ids, count, key, k, BLOCK)


@triton.jit(do_not_specialize=["parts"], do_not_specialize_on_alignment=["slots", "uniform", "tokens"])
def choose(
    highest, numbers, slots, uniform, sums, counts, near_keys, near_ids, near_shares, tokens, seen,
    parts,
    VOCAB: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A program a row: the likeliest token, or that of an ordered row; counts it in `seen`."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    numbers += slot * NUMBERS
    likeliest = _likeliest(highest, row, parts, PARTS)
    top = value_of(likeliest)
    token = id_of(likeliest)
    if _drawn(numbers, top):
        if _ordered_row(numbers):
            line = row * VOCAB
            token = _token_in_order(
                top, numbers, tl.load(uniform + row), sums, counts, near_keys + line, near_ids + line,
                near_shares + line, row, parts, PARTS, BLOCK,
            ).to(tl.int64)  # fmt: skip
        else:
            token = tl.load(tokens + row)
    tl.store(tokens + row, token)
    if tl.load(numbers + COUNTED) > 0:
        tl.atomic_add(seen + slot * VOCAB + token, 1)
