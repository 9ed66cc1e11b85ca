"""One load over ours and over what transformers offers: rows that start together, stamps of every token."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousBatchingConfig  # type: ignore[attr-defined]
from transformers.generation.streamers import BaseStreamer

from truss_model.engine.engine import Engine
from truss_model.engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Load:
    """`rows` prompts of `prompt` random tokens at once; answers so long that all rows decode together for a while."""

    rows: int
    prompt: int
    answer: int

    @classmethod
    def of(cls, rows: int, prompt: int, *, tiny: bool = False) -> "Load":
        together = 8 if tiny else 64
        return cls(rows, prompt, together + rows * prompt // 1600 + 2)

    def prompts(self, vocab: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.rows * 100_000 + self.prompt)
        return torch.randint(3, vocab, (self.rows, self.prompt), generator=generator).tolist()


@dataclass(frozen=True, slots=True)
class Stamps:
    """When the load began, and when every row got its tokens."""

    began: float
    rows: list[list[float]]

    def figures(self) -> dict[str, float | None]:
        """Tokens a second are those made between the last row's first token and the first row's last one.

        None where the first row had ended before the last one began, as a short answer may on a busy machine.
        """
        together, end = max(row[0] for row in self.rows), min(row[-1] for row in self.rows)
        made = sum(1 for row in self.rows for stamp in row if together < stamp <= end)
        gaps = sorted(b - a for row in self.rows for a, b in pairwise(row))
        first = sorted(row[0] - self.began for row in self.rows)
        rate = made / (end - together) if end > together else None
        return {
            "tokens_per_second": rate,
            "step_ms": 1e3 * len(self.rows) / rate if rate else None,
            "ttft_ms_p50": 1e3 * statistics.median(first),
            "ttft_ms_max": 1e3 * first[-1],
            "inter_token_ms_p50": 1e3 * statistics.median(gaps),
            "inter_token_ms_p95": 1e3 * gaps[int(0.95 * (len(gaps) - 1))],
            "total_tokens_per_second": sum(map(len, self.rows)) / (max(row[-1] for row in self.rows) - self.began),
        }


def ours(engine: Engine, prompts: Sequence[list[int]], answer: int) -> Stamps:
    async def row(prompt: list[int]) -> list[float]:
        params = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
        stamps: list[float] = []
        async for outputs in engine.submit(prompt, params).outputs():
            now = time.perf_counter()
            stamps += [now] * sum(len(output.token_ids) for output in outputs)
        return stamps

    async def all_rows() -> Stamps:
        began = time.perf_counter()
        return Stamps(began, await asyncio.gather(*map(row, prompts)))

    return asyncio.run(all_rows())


def continuous_batching(
    model: PreTrainedModel, prompts: Sequence[list[int]], answer: int, *, graphs: bool | None
) -> Stamps:
    """transformers' ContinuousBatchingManager, sized for the load and warmed up. graphs None: as it chooses itself."""
    cuda = model.device.type == "cuda"
    sizes: dict[str, Any] = {} if cuda else {"num_blocks": 64, "max_batch_tokens": 256}
    outputs = model.generate_batch(  # type: ignore[operator]
        inputs=list(prompts),
        generation_config=GenerationConfig(max_new_tokens=answer, do_sample=False, eos_token_id=-1),  # type: ignore[no-untyped-call]
        continuous_batching_config=ContinuousBatchingConfig(use_cuda_graph=graphs, use_async_batching=graphs, **sizes),
        record_timestamps=True,
    )
    rows = [list(output.timestamps or []) for output in outputs.values()]
    if len(rows) != len(prompts) or not all(rows):
        errors = {str(output.error) for output in outputs.values()}
        raise RuntimeError(f"continuous batching lost {len(prompts) - sum(map(bool, rows))} rows: {errors}")
    return Stamps(min(output.created_time for output in outputs.values()), rows)


class Clock(BaseStreamer):
    """Notes when `generate` hands out tokens; the prompt comes first."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        return None


def naive(model: PreTrainedModel, prompts: Sequence[list[int]], answer: int, *, static: bool) -> Stamps:
    """Plain `generate` of one batch; static: with its static cache, which compiles the forward on a GPU."""
    options: dict[str, Any] = {}
    if static:
        options = {"cache_implementation": "static", "compile_config": CompileConfig(mode="reduce-overhead")}
    inputs = torch.tensor(prompts, device=model.device)
    clock = Clock()
    began = time.perf_counter()
    with torch.inference_mode(mode=not static), torch.no_grad():
        model.generate(  # type: ignore[operator]
            inputs, attention_mask=torch.ones_like(inputs), streamer=clock,
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=answer, min_new_tokens=answer, do_sample=False, pad_token_id=0, **options
            ),
        )  # fmt: skip
    return Stamps(began, [clock.stamps[1:]] * len(prompts))
