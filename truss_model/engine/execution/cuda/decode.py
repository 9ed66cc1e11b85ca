# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Attention of rows with one new token each: reads only the pages a row has, each key and value once for all heads of
its group. Long rows are split over programs (flash decoding), and a second kernel joins the parts.
"""

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
QUERIES = 16  # least rows of a matrix instruction; the heads of a group are padded to it
MOST_SPLITS = 64
BLOCK = 64  # keys that are read at a time
LARGEST_KEY = 512  # bytes; of larger ones fewer are read at a time, or they exceed the shared memory of an A10G or L4


@triton.jit
def _first_and_chunk(
    context, window, WINDOWED: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr
):  # fmt: skip
    """The first key that is seen, and how many keys a split takes."""
    first = 0
    if WINDOWED:
        first = tl.maximum(context - window, 0)
    share = tl.cdiv(tl.cdiv(context - first, SPLITS), BLOCK) * BLOCK
    return first, tl.maximum(share, LEAST)


@triton.jit
def _scores(product, scale, SOFTCAP: tl.constexpr):
    """Base-2 scores of q times k. scale: the scaling, times log2(e) without a soft cap, over the cap with one."""
    scores = product * scale
    if SOFTCAP > 0:  # cap * tanh(x) * log2(e); tanh by an exponential that may overflow to infinity and still gives 1
        scores = (1 - 2 / (tl.exp2(scores * 2.8853900817779268) + 1)) * (SOFTCAP * 1.4426950408889634)
    return scores


@triton.jit
def _add_sink(sink, highest, total, sum_):
    """One more base-2 score a row, whose value is zero."""
    higher = tl.maximum(highest, sink)
    shrink = tl.exp2(highest - higher)
    return higher, total * shrink + tl.exp2(sink - higher), sum_ * shrink[:, None]


# Block tables are as wide as the longest row at hand and begin anywhere: no reason to compile again. Nor is a window.
@triton.jit(do_not_specialize=["table_row", "window"], do_not_specialize_on_alignment=["tables", "contexts"])
def _decode(
    query, keys, values, tables, contexts, out, sums, sinks,
    query_row, query_head, table_row, page_stride, scale, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr, WINDOWED: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr, SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(0)
    context = tl.load(contexts + row)
    first, chunk = _first_and_chunk(context, window, WINDOWED, SPLITS, BLOCK, LEAST)
    begin = first + split * chunk
    end = tl.minimum(begin + chunk, context)
    if begin < end:
        dims = tl.arange(0, DIM)
        member = tl.arange(0, QUERIES)
        head = kv_head * GROUP + member
        in_group = member < GROUP
        q = tl.load(
            query + row * query_row + head[:, None] * query_head + dims[None, :], mask=in_group[:, None], other=0.0
        )
        highest = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        sum_ = tl.zeros([QUERIES, DIM], tl.float32)
        for start in range(begin, end, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < end
            page = tl.load(tables + row * table_row + at // PAGE, mask=inside, other=0).to(tl.int64)
            base = page * page_stride + (kv_head * PAGE + at % PAGE) * DIM
            k = tl.load(keys + base[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
            scores = _scores(tl.dot(q, tl.trans(k), input_precision="ieee"), scale, SOFTCAP)
            scores = tl.where(inside[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            shrink = tl.exp2(highest - higher)
            weights = tl.exp2(scores - higher[:, None])
            v = tl.load(values + base[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
            sum_ = sum_ * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * shrink + tl.sum(weights, 1)
            highest = higher
        if SINKS and SPLITS == 1:
            sink = tl.load(sinks + head, mask=in_group, other=0.0).to(tl.float32) * 1.4426950408889634
            highest, total, sum_ = _add_sink(sink, highest, total, sum_)
        place = (row * HEADS + head) * SPLITS + split
        result = (sum_ / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + place[:, None] * DIM + dims[None, :], result, mask=in_group[:, None])
        if SPLITS > 1:
            tl.store(sums + place, highest + tl.log2(total), mask=in_group)


@triton.jit(do_not_specialize=["window"], do_not_specialize_on_alignment=["contexts"])
def _join(
    parts, sums, contexts, out, sinks, window,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr, SPLITS: tl.constexpr,
    LEAST: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    place = row * HEADS + tl.program_id(0)
    context = tl.load(contexts + row)
    if context > 0:  # else nothing was split, and the place may be a prompt's
        first, chunk = _first_and_chunk(context, window, WINDOWED, SPLITS, BLOCK, LEAST)
        split = tl.arange(0, SPLITS)
        dims = tl.arange(0, DIM)
        used = split * chunk < context - first
        sum_ = tl.load(sums + place * SPLITS + split, mask=used, other=float("-inf"))
        highest = tl.max(sum_, 0)
        rest = 0.0
        if SINKS:
            sink = tl.load(sinks + tl.program_id(0)).to(tl.float32) * 1.4426950408889634
            highest = tl.maximum(highest, sink)
            rest = tl.exp2(sink - highest)
        weights = tl.exp2(sum_ - highest)
        at = (place * SPLITS + split[:, None]) * DIM + dims[None, :]
        part = tl.load(parts + at, mask=used[:, None], other=0.0)
        joined = tl.sum(part * weights[:, None], 0) / (tl.sum(weights, 0) + rest)
        tl.store(out + place * DIM + dims, joined.to(out.dtype.element_ty))


def block_for(dim: int, itemsize: int) -> int:
    """Keys that a program reads at a time."""
    return BLOCK if dim * itemsize <= LARGEST_KEY else BLOCK * LARGEST_KEY // (dim * itemsize)


def splits_for(rows: int, kv_heads: int, processors: int, longest: int, block: int) -> tuple[int, int]:
    """(splits of a row at most, least keys of a split): enough programs to fill the card, also for one long row."""
    wanted = 4 * processors / (rows * kv_heads)
    most = min(MOST_SPLITS, triton.next_power_of_2(max(1, longest // (4 * block))))
    splits = min(most, max(4, triton.next_power_of_2(max(1, int(wanted)))))
    return splits, block if wanted > 1 else 4 * block


def rows_by_splits(most: int, kv_heads: int, processors: int, longest: int, block: int) -> list[int]:
    """Numbers of rows, up to `most`, that together ask for every kernel which `splits_for` can choose."""
    found: dict[tuple[int, int], int] = {}
    for rows in range(1, most + 1):
        found.setdefault(splits_for(rows, kv_heads, processors, longest, block), rows)
    return list(found.values())


def score_scale(scaling: float, softcap: float | None) -> float:
    """What _scores multiplies with."""
    return scaling * LOG2_E if softcap is None else scaling / softcap


def decode_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    contexts: torch.Tensor,
    scaling: float,
    window: int | None,
    out: torch.Tensor,
    *,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    processors: int,
    longest: int,
    block: int | None = None,
) -> None:
    """query [R, H, D] into out [R, H, D], dense; one layer's pages [pages, kv_heads, page, D]; contexts [R], 0 for rows
    whose place in `out` is left as it is.

    `longest` bounds the contexts: it decides the number of splits, which a CUDA graph fixes.
    """
    rows, heads, dim = query.shape
    kv_heads, page = keys.shape[1:3]
    block = block or block_for(dim, keys.dtype.itemsize)
    splits, least = splits_for(rows, kv_heads, processors, longest, block)
    parts = sums = out
    if splits > 1:
        parts = torch.empty(rows, heads, splits, dim, dtype=torch.float32, device=query.device)
        sums = torch.empty(rows, heads, splits, dtype=torch.float32, device=query.device)
    shape = {"HEADS": heads, "DIM": dim, "BLOCK": block, "WINDOWED": bool(window), "SPLITS": splits, "LEAST": least}
    shape["SINKS"] = sinks is not None
    last = out if sinks is None else sinks
    _decode[(splits, kv_heads, rows)](
        query, keys, values, tables, contexts, parts, sums, last,
        query.stride(0), query.stride(1), tables.stride(0), keys.stride(0), score_scale(scaling, softcap), window or 0,
        GROUP=heads // kv_heads, QUERIES=max(QUERIES, triton.next_power_of_2(heads // kv_heads)), PAGE=page,
        SOFTCAP=softcap or 0.0, num_warps=4, num_stages=3, **shape,
    )  # fmt: skip
    if splits > 1:
        _join[(heads, rows)](parts, sums, contexts, out, last, window or 0, num_warps=4, **shape)
