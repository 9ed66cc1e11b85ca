"""Attention over the pages of the KV cache, registered with transformers' AttentionInterface as "paged".

The model's own forward calls it once a layer; the step that it belongs to is set beside the call. Knows no rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PretrainedConfig

from truss_model.engine.execution.batch import StepBatch, to_device
from truss_model.engine.execution.limits import kv_shape
from truss_model.errors import LoadError

IMPLEMENTATION = "paged"
# Keywords that repeat what the step says already: tokens are causal, and their positions are the batch's.
REDUNDANT = {"position_ids", "is_causal", "dropout", "output_attentions", "output_router_logits", "use_cache"}


class PagedKV:
    """The KV memory. keys, values: [layers, pages, kv_heads, page_size, head_dim].

    transposed_keys: [..., head_dim, page_size] for keys, as the CPU's kernels read them. The page after the last one
    belongs to no row: padding is written there.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        transposed_keys: bool = True,
    ) -> None:
        self.page_size = page_size
        self.transposed_keys = transposed_keys
        self._layers, (self._heads, self._dim) = config.num_hidden_layers, kv_shape(config)
        self.keys = self.values = torch.empty(0, dtype=dtype, device=device)
        self.resize(pages)

    def resize(self, pages: int) -> None:
        """Give the memory back and take that of so many pages, all zero. Whoever holds the tensors must look again."""
        self.padding_page = pages
        self.keys = self.values = self.keys.new_empty(0)
        shape = (self._layers, pages + 1, self._heads, self.page_size, self._dim)
        key_shape = (*shape[:3], self._dim, self.page_size) if self.transposed_keys else shape
        # Filled, not zeros(): memory that is not there shows at the start, and the process does not grow later.
        self.keys = self.keys.new_empty(key_shape).fill_(0)
        self.values = self.values.new_empty(shape).fill_(0)

    def check(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Raise ValueError for [T, kv_heads, D] of another shape than the pages': a kernel would write elsewhere."""
        heads = (self.values.shape[2], self.values.shape[4])
        if key.shape[1:] != heads or value.shape[1:] != heads:
            raise ValueError(
                f"keys {list(key.shape[1:])} and values {list(value.shape[1:])} in pages for {list(heads)}"
            )

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages in every layer, all sources read before the first target is written."""
        sources, targets = (to_device(np.array(side), self.keys.device) for side in zip(*pairs, strict=True))
        self.keys[:, targets] = self.keys[:, sources]
        self.values[:, targets] = self.values[:, sources]


class PagedAttention(Protocol):
    """Appends a step's keys and values to the pages and attends. query [T, H, D], key and value [T, kv_heads, D]."""

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [T, H, D].

        softcap: scores become softcap * tanh(scores / softcap). sinks [H]: one more score a head, whose value is zero.
        """


class TorchPagedAttention:
    """The plain torch form, twin of every kernel: rows of like length in one padded batch, prompts in parts.

    What it gathers and scores at a time is bounded: by WORKSPACE, or by what one row needs, if that is more.
    """

    WORKSPACE = 64 << 20  # entries

    def __init__(self, kv: PagedKV) -> None:
        self.kv = kv

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.kv.check(key, value)
        keys, values, size = self.kv.keys[layer], self.kv.values[layer], self.kv.page_size
        if self.kv.transposed_keys:
            keys = keys.transpose(-1, -2)
        pages, offsets = batch.slots // size, batch.slots % size
        keys[pages, :, offsets] = key.to(keys.dtype)
        values[pages, :, offsets] = value.to(values.dtype)
        out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        for tokens, tables, contexts, longest in self._parts(batch, query.shape[1]):
            k, v = (gather(side, tables, longest).to(query.dtype) for side in (keys, values))
            rows = query[tokens]  # [R * q, H, D]
            grouped = rows.view(len(tables), -1, *query.shape[1:]).transpose(1, 2)
            seen = _seen(contexts, grouped.shape[2], k.shape[2], window)
            out[tokens] = attend(grouped, k, v, seen, scaling, softcap, sinks).transpose(1, 2).reshape(rows.shape)
        return out

    def _parts(
        self, batch: StepBatch, heads: int
    ) -> Iterator[tuple[slice | torch.Tensor, torch.Tensor, torch.Tensor, int]]:
        """(tokens, tables [R, W], contexts [R] up to their last token, the longest of these) of each part in turn."""
        spans = batch.spans or device_spans(batch)
        in_use = [(row, *span) for row, span in enumerate(spans) if span[2] > 0]
        kv_heads, dim = self.kv.values.shape[2], self.kv.values.shape[4]
        single = [row for row, _, count, _ in in_use if count == 1]
        lengths = [(spans[row][2], row) for row in single]
        for group in groups_of_like_length(lengths, self.WORKSPACE // (kv_heads * dim)):
            longest = max(spans[row][2] for row in group)
            if len(group) == len(spans):
                yield slice(0, len(spans)), batch.tables, batch.contexts, longest
                continue
            at = to_device(np.array(group), batch.tables.device)
            tokens = to_device(np.array([spans[row][0] for row in group]), batch.tables.device)
            yield tokens, batch.tables[at], batch.contexts[at], longest
        for row, start, count, context in in_use:
            step = max(1, self.WORKSPACE // (heads * context))
            for begin in range(0, count if count > 1 else 0, step):
                end = min(begin + step, count)
                later = count - end
                tokens_seen = batch.contexts[row : row + 1] - later
                yield slice(start + begin, start + end), batch.tables[row : row + 1], tokens_seen, context - later


def device_spans(batch: StepBatch) -> list[tuple[int, int, int]]:
    """The batch's spans, read from the device."""
    starts, contexts = batch.starts.tolist(), batch.contexts.tolist()
    return [(begin, end - begin, context) for (begin, end), context in zip(pairwise(starts), contexts, strict=True)]


def groups_of_like_length(rows: list[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """rows: (length, row). Groups that hold at most `most` tokens when padded, twice of what is in them."""
    group: list[int] = []
    held = 0
    for length, row in sorted(rows):
        padded = length * (len(group) + 1)
        if group and (padded > most or padded > 2 * (held + length)):
            yield sorted(group)
            group, held = [], 0
        group.append(row)
        held += length
    if group:
        yield sorted(group)


def gather(pages: torch.Tensor, tables: torch.Tensor, longest: int) -> torch.Tensor:
    """pages [pages, heads, page, D] of tables [R, W] -> [R, heads, K, D], as many whole pages as `longest` needs."""
    heads, size, dim = pages.shape[1:]
    wanted = tables[:, : -(-longest // size)]
    found = pages.transpose(0, 1).index_select(1, wanted.flatten())  # [heads, R * W, page, D]
    return found.view(heads, len(tables), -1, dim).transpose(0, 1)


def _seen(contexts: torch.Tensor, count: int, keys: int, window: int | None) -> torch.Tensor:
    """[R, q, K]: whether each of the last q tokens of each context sees each of K keys."""
    at = torch.arange(keys, device=contexts.device)
    own = contexts[:, None] - count + torch.arange(count, device=contexts.device)
    seen = at <= own[..., None]
    return seen if window is None else seen & (at > own[..., None] - window)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """query [R, H, q, D], key and value [R, kv_heads, K, D], seen [R, q, K] -> [R, H, q, D]. The softmax is float32."""
    rows, heads, count, dim = query.shape
    # Heads that share keys become more queries: torch would copy keys and values for each of them.
    grouped = query.reshape(rows, key.shape[1], -1, dim)  # [R, kv_heads, group * q, D]
    if softcap is None and sinks is None:
        mask = seen[:, None].expand(rows, heads // key.shape[1], count, -1).reshape(rows, 1, grouped.shape[2], -1)
        return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling).view(query.shape)
    scores = (grouped @ key.transpose(-1, -2)).float().view(rows, heads, count, -1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen[:, None], float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().view(1, -1, 1, 1).expand(rows, heads, count, 1)], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    return (weights.view(rows, key.shape[1], -1, key.shape[2]) @ value).view(query.shape)


@dataclass(frozen=True, slots=True)
class RunningForward:
    """What the layers of the forward that runs attend with, and over."""

    attention: PagedAttention
    batch: StepBatch


_running: ContextVar[RunningForward] = ContextVar("running_forward")


@contextmanager
def forward_over(attention: PagedAttention, batch: StepBatch) -> Iterator[None]:
    """Forwards of a model in this block are of this step. No keyword of theirs: not every family passes one on."""
    token = _running.set(RunningForward(attention, batch))
    try:
        yield
    finally:
        _running.reset(token)


def running_batch() -> StepBatch:
    """The batch of the forward that runs."""
    return _running.get().batch


def refuse_unknown(module: torch.nn.Module, keywords: Mapping[str, object]) -> None:
    """Raise LoadError for a keyword that asks a module's attention for what the kernels do not compute."""
    unknown = {name for name, asked in keywords.items() if asked is not None and name not in REDUNDANT}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise LoadError(f"{type(module).__name__} asks its attention for {names}, which this engine does not compute.")
    if keywords.get("is_causal") is False:
        raise LoadError(f"{type(module).__name__} attends to later tokens as well, which this engine does not do.")


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, kv_heads, T, D] -> [1, T, H, D].

    Raises LoadError for a keyword that asks for what the kernels do not compute.
    """
    refuse_unknown(module, {"attention_mask": attention_mask, **others})
    step = _running.get()
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    layer = cast(int, module.layer_idx)
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return step.attention(layer, q, k, v, step.batch, scale, sliding_window, softcap, s_aux)[None], None


# No mask function is registered: transformers then makes none, as causality and windows come from positions and tables.
AttentionInterface.register(IMPLEMENTATION, _paged_attention)
