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


@triton.jit
def _first_and_chunk(context, WINDOW: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr):
    """The first key that is seen, and how many keys a split takes."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(context - WINDOW, 0)
    share = tl.cdiv(tl.cdiv(context - first, SPLITS), BLOCK) * BLOCK
    return first, tl.maximum(share, LEAST)


# Block tables are as wide as the longest row at hand and begin anywhere: no reason to compile again.
@triton.jit(do_not_specialize=["table_row"], do_not_specialize_on_alignment=["tables", "contexts"])
def _decode(
    query, keys, values, tables, contexts, out, sums,
    query_row, query_head, table_row, page_stride, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(0)
    context = tl.load(contexts + row)
    first, chunk = _first_and_chunk(context, WINDOW, SPLITS, BLOCK, LEAST)
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
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(inside[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            shrink = tl.exp2(highest - higher)
            weights = tl.exp2(scores - higher[:, None])
            v = tl.load(values + base[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
            sum_ = sum_ * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * shrink + tl.sum(weights, 1)
            highest = higher
        place = (row * HEADS + head) * SPLITS + split
        result = (sum_ / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + place[:, None] * DIM + dims[None, :], result, mask=in_group[:, None])
        if SPLITS > 1:
            tl.store(sums + place, highest + tl.log2(total), mask=in_group)


@triton.jit(do_not_specialize_on_alignment=["contexts"])
def _join(
    parts, sums, contexts, out,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr, SPLITS: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    place = row * HEADS + tl.program_id(0)
    context = tl.load(contexts + row)
    first, chunk = _first_and_chunk(context, WINDOW, SPLITS, BLOCK, LEAST)
    split = tl.arange(0, SPLITS)
    dims = tl.arange(0, DIM)
    used = split * chunk < context - first
    sum_ = tl.load(sums + place * SPLITS + split, mask=used, other=float("-inf"))
    weights = tl.exp2(sum_ - tl.max(sum_, 0))
    at = (place * SPLITS + split[:, None]) * DIM + dims[None, :]
    part = tl.load(parts + at, mask=used[:, None], other=0.0)
    joined = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + place * DIM + dims, joined.to(out.dtype.element_ty))


def splits_for(rows: int, kv_heads: int, processors: int, longest: int, block: int) -> tuple[int, int]:
    """(splits of a row at most, least keys of a split): enough programs to fill the card, also for one long row."""
    wanted = 4 * processors / (rows * kv_heads)
    most = min(MOST_SPLITS, triton.next_power_of_2(max(1, longest // (4 * block))))
    splits = min(most, max(4, triton.next_power_of_2(max(1, int(wanted)))))
    return splits, block if wanted > 1 else 4 * block


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
    processors: int,
    longest: int,
    block: int = 64,
) -> None:
    """query [R, H, D] into out [R, H, D], dense; one layer's pages [pages, kv_heads, page, D]; contexts [R].

    `longest` bounds the contexts: it decides the number of splits, which a CUDA graph fixes.
    """
    rows, heads, dim = query.shape
    kv_heads, page = keys.shape[1:3]
    splits, least = splits_for(rows, kv_heads, processors, longest, block)
    parts = sums = out
    if splits > 1:
        parts = torch.empty(rows, heads, splits, dim, dtype=torch.float32, device=query.device)
        sums = torch.empty(rows, heads, splits, dtype=torch.float32, device=query.device)
    shape = {"HEADS": heads, "DIM": dim, "BLOCK": block, "WINDOW": window or 0, "SPLITS": splits, "LEAST": least}
    _decode[(splits, kv_heads, rows)](
        query, keys, values, tables, contexts, parts, sums,
        query.stride(0), query.stride(1), tables.stride(0), keys.stride(0), scaling * LOG2_E,
        GROUP=heads // kv_heads, QUERIES=max(QUERIES, triton.next_power_of_2(heads // kv_heads)), PAGE=page,
        num_warps=4, num_stages=3, **shape,
    )  # fmt: skip
    if splits > 1:
        _join[(heads, rows)](parts, sums, contexts, out, num_warps=4, **shape)
