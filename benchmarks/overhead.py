"""What tokens cost outside the forward at 32 rows: in the engine, with the text side on top, and over HTTP.

`python -m benchmarks.overhead [--rows 32] [--tokens 96]`
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.client import Answer
from benchmarks.demo_engine import DemoEngine, demo_engine, greedy
from benchmarks.figures import quantile
from benchmarks.load import closed_loop, connected
from benchmarks.process_tree import ProcessTree
from benchmarks.prompts import question
from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import ours
from scripts.interrupt import exit_on_signals
from truss_model.service import Service
from truss_model.settings import ServingSettings


class ForwardClock:
    """Seconds that each forward took, the output head included, with the number of its tokens."""

    def __init__(self) -> None:
        self.forwards: list[tuple[int, float]] = []
        self._began = 0.0

    def begin_body(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.forwards.append((kwargs["input_ids"].numel(), 0.0))
        self._began = time.perf_counter()

    def begin_head(self, module: torch.nn.Module, args: Any) -> None:
        self._began = time.perf_counter()

    def end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        tokens, seconds = self.forwards[-1]
        self.forwards[-1] = (tokens, seconds + time.perf_counter() - self._began)

    def median_ms(self, tokens: int) -> float:
        return quantile([seconds for count, seconds in self.forwards if count == tokens], 0.5) * 1e3


@contextmanager
def clocked(model: PreTrainedModel) -> Iterator[ForwardClock]:
    clock = ForwardClock()
    body, head = model.base_model, model.get_submodule("lm_head")
    handles = [
        body.register_forward_pre_hook(clock.begin_body, with_kwargs=True),
        body.register_forward_hook(clock.end),
        head.register_forward_pre_hook(clock.begin_head),
        head.register_forward_hook(clock.end),
    ]
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


@dataclass(slots=True)
class Layer:
    """One way to the tokens. `step_ms`: between two tokens of a row while all rows decode."""

    name: str
    step_ms: float
    forward_ms: float | None
    cpu_ms_per_token: float
    more: dict[str, float] = field(default_factory=dict)


async def through_engine(demo: DemoEngine, clock: ForwardClock, rows: int, tokens: int) -> Layer:
    """Token ids only."""
    prompts = [demo.encode(question(50_000 + number, "short")) for number in range(rows)]

    async def ask(number: int) -> Answer:
        return await demo.generate(prompts[number], greedy(tokens))

    return await _layer("engine, token ids", ask, [os.getpid()], rows, clock)


async def through_service(demo: DemoEngine, clock: ForwardClock, rows: int, tokens: int) -> Layer:
    """The lines that predict yields: text and events included."""
    service = Service(demo.engine, demo.tokenizer, ServingSettings(), "demo")
    sizes = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}

    async def present() -> bool:
        return False

    async def ask(number: int) -> Answer:
        answer = Answer(time.perf_counter(), completion_tokens=tokens)
        reply = await service.predict({"messages": question(60_000 + number, "short"), **sizes}, 500, present)
        if reply.lines is None:
            raise RuntimeError(f"refused: {reply.body}")
        async for _ in reply.lines:
            answer.stamps.append(time.perf_counter())
        answer.ended = answer.stamps[-1]
        return answer

    return await _layer("with text and events", ask, [os.getpid()], rows, clock)


async def through_http(rows: int, tokens: int) -> Layer:
    """The real Truss server and the adapter. Its forwards are timed by nobody: the engine's own stand for them."""
    run_dir = run_folder()
    with ours(run_dir) as target:
        truss, adapter = (ProcessTree([server.pid]) for server in target.servers)
        async with connected(target.url, target.model, forced=True) as client:

            async def ask(number: int) -> Answer:
                return await client.ask(question(70_000 + number, "short"), tokens)

            before = adapter.cpu_seconds()
            layer = await _layer("over HTTP: Truss, adapter", ask, [target.servers[0].pid], rows, None)
            layer.more = {"adapter_cpu_ms_per_token": (adapter.cpu_seconds() - before) / (rows * tokens) * 1e3}
            layer.more["truss_rss_mb"] = truss.rss_mb()
            return layer


async def _layer(name: str, ask: Any, pids: list[int], rows: int, clock: ForwardClock | None) -> Layer:
    say(name)
    tree = ProcessTree(pids)
    before = tree.cpu_seconds()
    if clock is not None:
        clock.forwards.clear()
    answers = await closed_loop(ask, rows, rows)
    cpu = tree.cpu_seconds() - before
    all_decode = max(answer.stamps[0] for answer in answers), min(answer.stamps[-1] for answer in answers)
    gaps = [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.stamps, answer.stamps[1:], strict=False)
        if all_decode[0] <= earlier and later <= all_decode[1]
    ]
    tokens = sum(answer.tokens for answer in answers)
    forward = clock.median_ms(rows) if clock is not None else None
    return Layer(name, quantile(gaps, 0.5) * 1e3, forward, cpu / tokens * 1e3)


def measure(rows: int, tokens: int) -> list[Layer]:
    with demo_engine() as demo, clocked(demo.model) as clock:
        layers = [
            asyncio.run(through_engine(demo, clock, rows, tokens)),
            asyncio.run(through_service(demo, clock, rows, tokens)),
        ]
    return [*layers, asyncio.run(through_http(rows, tokens))]


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    layers = measure(options.rows, options.tokens)
    bare = layers[0].forward_ms or 0.0
    rows, result = [], {}
    for layer in layers:
        forward = layer.forward_ms if layer.forward_ms is not None else bare
        outside = layer.step_ms - forward
        share = outside / layer.step_ms
        rows.append([layer.name, layer.step_ms, forward, outside, share * 100, layer.cpu_ms_per_token])
        result[layer.name] = {
            "step_ms": layer.step_ms,
            "forward_ms": layer.forward_ms,
            "outside_ms": outside,
            "outside_share": share,
            "cpu_ms_per_token": layer.cpu_ms_per_token,
            **layer.more,
        }
    columns = ("way", "step ms", "forward", "outside", "% of step", "CPU ms/token")
    table(f"A step of {options.rows} rows", columns, rows)
    Report("engine").add("overhead", {"rows": options.rows, "tokens": options.tokens, "result": result})


if __name__ == "__main__":
    main()
