"""What the host does for a step: operations that it gives to the GPU, and its time, eager and by recordings.

`python -m benchmarks.step_launches [--rounds 30] [--out FOLDER]`
A model of 32 layers of tiny dimensions on the GPU's path, on the CPU: the runner's own launch of a step whose rows have
just come, without scheduler, Truss and HTTP. Operations are torch's, with uploads and without views and empty tensors,
Triton kernels, and replays. Kernels and replays do nothing here: Triton's own launcher, some ten microseconds a kernel
on a GPU's host, is not in the time of eager steps.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel
from triton.runtime.interpreter import InterpretedFunction

from benchmarks.report import RESULTS, Report, say, table
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.cuda.attention import GpuProperties
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings

LAYERS = 32
SMALLEST: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
CONTEXT = 200  # tokens of a row that decodes
H100 = GpuProperties(processors=132, large_shared_memory=True)
LIMITS = Limits(max_model_len=1024, max_rows=64, token_budget=2048, long_prefill=8192, page_size=16, pages=2048)
GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """Rows that decode, and the lengths of the prompts that come beside them."""

    decodes: int
    prompts: tuple[int, ...]


CASES = {
    "a prompt of 12 tokens": Case(0, (12,)),
    "8 rows decode, a prompt of 100": Case(8, (100,)),
    "32 rows decode, 4 prompts of 100": Case(32, (100,) * 4),
    "8 rows decode, a prompt of 1,000": Case(8, (1000,)),
    "8 rows decode": Case(8, ()),
}


@dataclass(slots=True)
class Launches:
    """Triton kernels and replays so far."""

    kernels: int = 0
    replays: int = 0


class TorchOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch's operations that give the device work: an upload is one, with the copy that it ends in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self._uploads: list[torch.Tensor] = []

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "lift_fresh":
            self._uploads.append(made)
            self.count += 1
        elif not (function.is_view or name.startswith(("empty", "new_empty"))):
            self.count += not (name == "copy_" and any(args[1] is upload for upload in self._uploads))
        return made


class Steps:
    """Steps of one case after the other, on a runner with recordings or without."""

    def __init__(self, launches: Launches, *, recorded: bool) -> None:
        self._launches = launches
        model: Any = MistralForCausalLM(MistralConfig(**SMALLEST, sliding_window=None))
        model.eval()
        self._runner = ModelRunner(model, LIMITS, frozenset(), EngineSettings(cuda_graphs=recorded), self._backend)
        self._runner.record()

    def milliseconds(self, case: Case) -> float:
        """To launch one step; the rows of prompts have just come."""
        plan = self._plan(case)
        began = time.perf_counter()
        step = self._runner.launch(plan)
        taken = 1000 * (time.perf_counter() - began)
        step.result()
        return taken

    def operations(self, case: Case) -> dict[str, int]:
        """Of one step, by kind."""
        plan, before = self._plan(case), replace(self._launches)
        with TorchOperations() as torchs:
            self._runner.launch(plan)
        made = self._launches
        kernels, replays = made.kernels - before.kernels, made.replays - before.replays
        return {"torch": torchs.count, "triton": kernels, "replays": replays}

    def _backend(self, model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        def capture(work: Callable[[], object]) -> Callable[[], object]:
            work()

            def replay() -> None:
                self._launches.replays += 1

            return replay

        return replace(cuda_backend(model, limits, settings, H100), capture=capture)

    def _plan(self, case: Case) -> StepPlan:
        decoding = [Chunk(_row(CONTEXT, at), CONTEXT - 1, 1, samples=True) for at in range(case.decodes)]
        prompts = [
            Chunk(_row(count, len(decoding) + at), 0, count, samples=True) for at, count in enumerate(case.prompts)
        ]
        return StepPlan(decoding + prompts)


def _row(tokens: int, number: int) -> Row:
    """On pages of its own."""
    most = LIMITS.max_model_len // LIMITS.page_size
    pages = [(number * most + page) % LIMITS.pages for page in range(-(-tokens // LIMITS.page_size))]
    return Row(Generation(tokens, 1, lambda *_: None), 0, [5] * tokens, tokens, GREEDY, 0, pages=pages)


@contextmanager
def idle_kernels(launches: Launches) -> Iterator[None]:
    """Triton's interpreter counts in this block, and does nothing."""
    run = InterpretedFunction.run

    def counted(self: object, *_: object, **__: object) -> None:
        launches.kernels += 1

    InterpretedFunction.run = counted
    try:
        yield
    finally:
        InterpretedFunction.run = run


def measure(rounds: int, cases: Mapping[str, Case] = CASES) -> dict[str, dict[str, dict[str, float]]]:
    """By case, eager and recorded: operations by kind, and the median of the milliseconds."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # idle kernels leave what lay in memory, which is slow to calculate with
    launches = Launches()
    with idle_kernels(launches):
        ways = {"eager": Steps(launches, recorded=False), "recorded": Steps(launches, recorded=True)}
        result: dict[str, dict[str, dict[str, float]]] = {}
        for name, case in cases.items():
            say(name)
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):  # in turn, so that both meet the same machine
                for way, steps in ways.items():
                    taken[way].append(steps.milliseconds(case))
            result[name] = {
                way: {**steps.operations(case), "host_ms": statistics.median(taken[way])} for way, steps in ways.items()
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = measure(options.rounds)
    rows = [
        [name, *(figures for way in ways.values() for figures in (sum(list(way.values())[:-1]), way["host_ms"]))]
        for name, ways in result.items()
    ]
    table("The host's part of a step", ["step", "eager: operations", "ms", "recorded: operations", "ms"], rows)
    Report("step_launches", options.out).add("steps", {"rounds": options.rounds, "layers": LAYERS, "cases": result})


if __name__ == "__main__":
    main()
