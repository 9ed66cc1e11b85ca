# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The token of each row, of those that draw.py has put together, and its count.

The one at a position of the order, or of the cumulated shares, is found by narrowing the range of its key.
"""

import triton
import triton.language as tl

from truss_model.engine.execution.cuda.draw import (
    enough_of,
    is_drawn,
    is_ordered,
    last_of_top_p,
    likeliest_of,
    position_of,
    reach_of,
)
from truss_model.engine.execution.cuda.scores import COUNTED, LEAST, TOP_K, TOP_P
from truss_model.engine.execution.cuda.shares import id_of, ordered, shares_of, unordered, value_of

WAYS = tl.constexpr(8)  # parts of a range that one pass tells apart


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
    index, count, kept, whole = enough_of(sums, counts, numbers, row, parts, PARTS)
    highest = ordered(top + 0.0)
    lowest = ordered(top - 2 * reach_of(index) + 0.0)  # lower, whatever is rounded
    top_k, top_p = tl.load(numbers + TOP_K), tl.load(numbers + TOP_P)
    if top_k > 0:
        whole = kept
        if top_k < count.to(tl.float32):
            k = top_k.to(tl.int64)
            key, number, sum_ = _find(keys, shares, count, lowest, highest, k - 1, False, BLOCK)
            whole = sum_ + (k - number) * shares_of(top - unordered(key.to(tl.int32)))
    kept = whole
    if top_p < 1:
        position = last_of_top_p(top_p, whole)
        key, number, sum_ = _find(keys, shares, count, lowest, highest, position, True, BLOCK)
        share = shares_of(top - unordered(key.to(tl.int32)))
        kept = sum_ + ((position - sum_) // share + 1) * share
    least = ordered(top + tl.load(numbers + LEAST) + 0.0).to(tl.int64)
    _, sum_ = _above(keys, shares, count, least - 1, BLOCK)
    position = position_of(uniform, tl.minimum(kept, sum_))
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
    likeliest = likeliest_of(highest, row, parts, PARTS)
    top = value_of(likeliest)
    token = id_of(likeliest)
    if is_drawn(numbers, top):
        if is_ordered(numbers):
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
