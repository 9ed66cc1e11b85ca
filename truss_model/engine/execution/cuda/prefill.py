# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Attention of rows with any number of new tokens, packed without padding, over pages that may hold earlier ones."""

import torch
import triton
import triton.language as tl

from truss_model.engine.execution.cuda.decode import _add_sink, _scores, score_scale


@triton.jit
def _attend(
    q, own, begin, end, row_tables, keys, values, page_stride, kv_head, scale, window, highest, total, sum_,
    DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, WINDOWED: tl.constexpr, MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Online softmax over keys begin .. end - 1; without masks where every query sees all of them."""
    dims = tl.arange(0, DIM)
    for start in range(begin, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        if MASKED:
            page = tl.load(row_tables + at // PAGE, mask=at < end, other=0).to(tl.int64)
        else:
            page = tl.load(row_tables + at // PAGE).to(tl.int64)
        base = page * page_stride + (kv_head * PAGE + at % PAGE) * DIM
        if MASKED:  # what lies behind the context may be another's, even no number
            k = tl.load(keys + base[:, None] + dims[None, :], mask=(at < end)[:, None], other=0.0)
            v = tl.load(values + base[:, None] + dims[None, :], mask=(at < end)[:, None], other=0.0)
        else:
            k = tl.load(keys + base[:, None] + dims[None, :])
            v = tl.load(values + base[:, None] + dims[None, :])
        scores = _scores(tl.dot(q, tl.trans(k), input_precision="ieee"), scale, SOFTCAP)
        if MASKED:
            seen = at[None, :] <= own[:, None]
            if WINDOWED:
                seen = seen & (at[None, :] > own[:, None] - window)
            # Finite: a query may see nothing of a block. What it adds then is scaled to nothing by its own key.
            scores = tl.where(seen, scores, -1.0e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        sum_ = sum_ * shrink[:, None]
        sum_ += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
    return highest, total, sum_


@triton.jit(do_not_specialize=["table_row", "window"], do_not_specialize_on_alignment=["tables", "starts", "contexts"])
def _prefill(
    query, keys, values, tables, starts, contexts, out, sinks,
    query_row, query_head, table_row, page_stride, scale, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):  # fmt: skip
    block = tl.num_programs(2) - 1 - tl.program_id(2)  # the longest first
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    begin = tl.load(starts + row).to(tl.int64)
    count = (tl.load(starts + row + 1) - begin).to(tl.int32)
    if block * BLOCK_M < count:
        context = tl.load(contexts + row)
        dims = tl.arange(0, DIM)
        token = block * BLOCK_M + tl.arange(0, BLOCK_M)
        q = tl.load(
            query + (begin + token[:, None]) * query_row + head * query_head + dims[None, :],
            mask=token[:, None] < count, other=0.0,
        )  # fmt: skip
        # Position of the block's first query; negative in a row that is not in use, which sees nothing.
        lowest = context - count + block * BLOCK_M
        own = lowest + tl.arange(0, BLOCK_M)
        end = tl.minimum(lowest + BLOCK_M, context)
        if WINDOWED:
            first = tl.maximum(lowest - window + 1, 0) // BLOCK_N * BLOCK_N
            whole = first
        else:
            first = 0
            whole = tl.maximum(lowest + 1, 0) // BLOCK_N * BLOCK_N
        highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sum_ = tl.zeros([BLOCK_M, DIM], tl.float32)
        row_tables = tables + row * table_row
        highest, total, sum_ = _attend(
            q, own, first, whole, row_tables, keys, values, page_stride, head // GROUP, scale, window,
            highest, total, sum_,
            DIM, PAGE, BLOCK_N, WINDOWED, False, SOFTCAP,
        )  # fmt: skip
        highest, total, sum_ = _attend(
            q, own, whole, end, row_tables, keys, values, page_stride, head // GROUP, scale, window,
            highest, total, sum_,
            DIM, PAGE, BLOCK_N, WINDOWED, True, SOFTCAP,
        )  # fmt: skip
        if SINKS:
            sink = tl.full([BLOCK_M], 0.0, tl.float32) + tl.load(sinks + head).to(tl.float32) * 1.4426950408889634
            highest, total, sum_ = _add_sink(sink, highest, total, sum_)
        total += tl.where(context > 0, 0.0, 1.0)  # 0 / 0 is no number
        result = (sum_ / total[:, None]).to(out.dtype.element_ty)
        at = ((begin + token[:, None]) * HEADS + head) * DIM + dims[None, :]
        tl.store(out + at, result, mask=token[:, None] < count)


def tile(large: bool, itemsize: int, dim: int) -> tuple[int, int, int, int]:
    """Queries and keys of a program, its warps, and how many loads it has under way: what registers and cards allow."""
    if itemsize * dim > 512:
        return 16, 16, 4, 2
    if itemsize > 2 or dim > 128:
        return 32, 32, 4, 2
    return (128, 64, 8, 3) if large else (64, 32, 4, 3)


def prefill_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    starts: torch.Tensor,
    contexts: torch.Tensor,
    longest: int,
    scaling: float,
    window: int | None,
    out: torch.Tensor,
    *,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    large: bool,
) -> None:
    """Causal attention of query [T, H, D] into out [T, H, D], dense; only tokens starts[0] .. starts[-1] are written.

    One layer's pages [pages, kv_heads, page, D]. Row i has tokens starts[i] .. starts[i + 1] - 1, the last ones of its
    context; zeros are written for a row that is not in use, of context 0. No row has more than `longest`. large: the
    card has the shared memory of an H100.
    """
    _, heads, dim = query.shape
    kv_heads, page = keys.shape[1:3]
    block_m, block_n, warps, stages = tile(large, query.dtype.itemsize, dim)
    _prefill[(heads, contexts.numel(), triton.cdiv(longest, block_m))](
        query, keys, values, tables, starts, contexts, out, out if sinks is None else sinks,
        query.stride(0), query.stride(1), tables.stride(0), keys.stride(0), score_scale(scaling, softcap), window or 0,
        HEADS=heads, GROUP=heads // kv_heads, DIM=dim, PAGE=page, BLOCK_M=block_m, BLOCK_N=block_n,
        WINDOWED=bool(window), SOFTCAP=softcap or 0.0, SINKS=sinks is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
