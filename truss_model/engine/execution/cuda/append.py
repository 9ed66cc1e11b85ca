# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""New keys and values into their pages, rotated on the way where the model's own forward has not done so."""

import torch
import triton
import triton.language as tl

HEADS_A_PROGRAM = 8


@triton.jit
def _append(
    query, key, value, cos, sin, positions, slots, keys, values,
    query_row, key_row, key_head, value_row, value_head, page_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
    ROTATE: tl.constexpr, QUERY_BLOCKS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    HALF: tl.constexpr = DIM // 2
    half = tl.arange(0, HALF)[None, :]
    if ROTATE:
        position = tl.load(positions + token).to(tl.int64)
        c = tl.load(cos + position * HALF + half).to(tl.float32)
        s = tl.load(sin + position * HALF + half).to(tl.float32)
        if block < QUERY_BLOCKS:
            head = block * BLOCK + tl.arange(0, BLOCK)[:, None]
            at = query + token * query_row + head * DIM + half
            there = head < HEADS
            low = tl.load(at, mask=there).to(tl.float32)
            high = tl.load(at + HALF, mask=there).to(tl.float32)
            tl.store(at, (low * c - high * s).to(query.dtype.element_ty), mask=there)
            tl.store(at + HALF, (high * c + low * s).to(query.dtype.element_ty), mask=there)
    if block >= QUERY_BLOCKS:
        head = (block - QUERY_BLOCKS) * BLOCK + tl.arange(0, BLOCK)[:, None]
        there = head < KV_HEADS
        slot = tl.load(slots + token).to(tl.int64)
        target = slot // PAGE * page_stride + (head * PAGE + slot % PAGE) * DIM + half
        at = key + token * key_row + head * key_head + half
        low = tl.load(at, mask=there).to(tl.float32)
        high = tl.load(at + HALF, mask=there).to(tl.float32)
        if ROTATE:
            rotated = low * c - high * s
            high = high * c + low * s
            low = rotated
        tl.store(keys + target, low.to(keys.dtype.element_ty), mask=there)
        tl.store(keys + target + HALF, high.to(keys.dtype.element_ty), mask=there)
        at = value + token * value_row + head * value_head + half
        tl.store(values + target, tl.load(at, mask=there).to(values.dtype.element_ty), mask=there)
        tl.store(values + target + HALF, tl.load(at + HALF, mask=there).to(values.dtype.element_ty), mask=there)


def append(
    key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> None:
    """key and value [T, kv_heads, D] go to `slots` of one layer's pages [pages, kv_heads, page, D]."""
    tokens, heads, dim = key.shape
    _append[(tokens, triton.cdiv(heads, HEADS_A_PROGRAM))](
        key, key, value, key, key, slots, slots, keys, values,
        0, key.stride(0), key.stride(1), value.stride(0), value.stride(1), keys.stride(0),
        HEADS=0, KV_HEADS=heads, DIM=dim, PAGE=keys.shape[2], BLOCK=HEADS_A_PROGRAM, ROTATE=False, QUERY_BLOCKS=0,
        num_warps=1,
    )  # fmt: skip


def rotate_append(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> None:
    """Rotate query [T, H, D] in place and key on its way into the pages. rotary: cosine and sine, [positions, D/2]."""
    tokens, heads, dim = query.shape
    kv_heads = key.shape[1]
    blocks = triton.cdiv(heads, HEADS_A_PROGRAM)
    _append[(tokens, blocks + triton.cdiv(kv_heads, HEADS_A_PROGRAM))](
        query, key, value, *rotary, positions, slots, keys, values,
        query.stride(0), key.stride(0), key.stride(1), value.stride(0), value.stride(1), keys.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, PAGE=keys.shape[2], BLOCK=HEADS_A_PROGRAM, ROTATE=True,
        QUERY_BLOCKS=blocks, num_warps=1,
    )  # fmt: skip
