"""Ours on one GPU against what transformers offers and against the memory's pace, on Mistral-7B's shapes.

`python -m benchmarks.gpu [--stage NAME | --only PART,...] [--device cuda|cpu] [--tiny]`. On a card that nobody has run
this on, the stages in their order: each takes under 9 minutes, has its own file, and proves what the next builds on.
Beside this repository and a torch for CUDA, which brings Triton, it needs the wheels of transformers, tokenizers and
huggingface-hub at constraints.txt's versions (17 MB), and accelerate, safetensors, psutil and PyYAML, of any version.
Weights are random and made on the device, for the stage `load` written to its disk (15 GB).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu_checks import compare, profile, reference_logits, tiny_check
from benchmarks.gpu_model import Ceilings, ceilings, free, make_model, step_floor
from benchmarks.gpu_runs import Load, Stamps, continuous_batching, naive, ours
from benchmarks.gpu_start import checkpoint_folder, environment, load_and_answer, ways, write_checkpoint
from benchmarks.report import RESULTS, Report, run_folder, say, table
from truss_model.engine.engine import Engine
from truss_model.engine.execution.backend import Backend, MakeBackend
from truss_model.engine.execution.device import make_backend
from truss_model.engine.execution.limits import Limits, limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.settings import EngineSettings

PARTS = ("environment", "start", "load", "ceilings", "check", "ours", "naive", "static", "batching", "profile", "fp8")
STAGES = {
    "environment": ("environment",), "start": ("start",), "load": ("load",), "check": ("ceilings", "check"),
    "speed": ("ours",), "rivals": ("naive", "static", "batching"), "profile": ("profile",), "fp8": ("fp8",),
}  # fmt: skip
OURS = [(1, 128), (8, 128), (32, 128), (64, 128), (64, 448), (128, 128), (256, 128), (1, 512), (1, 1024), (32, 1024),
        (64, 1024), (1, 8192), (8, 8192)]  # fmt: skip
BATCHING = [(1, 128), (8, 128), (32, 128), (64, 448), (128, 128), (256, 128), (1, 1024), (32, 1024), (1, 8192)]
NAIVE = [(1, 128), (8, 128), (32, 128), (1, 1024), (1, 8192)]
STATIC = [(1, 128)]
BATCHING_GRAPHS = [(1, 128), (64, 448)]
FP8 = [(1, 128), (8, 128), (64, 448), (256, 128), (1, 512)]
TINY = [(1, 16), (4, 32)]
COLUMNS = ("tokens_per_second", "step_ms", "ttft_ms_p50", "ttft_ms_max", "inter_token_ms_p50", "inter_token_ms_p95")


class Bench:
    """What the parts share: the model as it is now, the ceilings, the results."""

    def __init__(self, device: torch.device, tiny: bool, out: Path, stage: str | None = None) -> None:
        self.device, self.tiny = device, tiny
        self.name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        kind = self.name.lower().replace(" ", "-") + ("-tiny" if tiny else "")
        self.report = Report(f"gpu-{kind}" + (f"-{stage}" if stage else ""), out)
        self.out = out
        self._model: PreTrainedModel | None = None
        self._engine: Engine | None = None
        self.reference: tuple[list[int], torch.Tensor] | None = None

    @cached_property
    def ceilings(self) -> Ceilings:
        return ceilings(self.device, tiny=self.tiny)

    def plain(self) -> PreTrainedModel:
        """transformers' own model; gone as soon as our engine takes it over."""
        if self._model is None or self._engine is not None:
            self.clear()
            self._model = make_model(self.device, tiny=self.tiny)
        return self._model

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = start(self.plain(), self.tiny)
        return self._engine

    def clear(self) -> None:
        if self._engine is not None:
            self._engine.stop()
        self._engine = self._model = None
        free(self.device)

    def cases(self, cases: Sequence[tuple[int, int]]) -> list[Load]:
        return [Load.of(rows, prompt, tiny=self.tiny) for rows, prompt in (TINY if self.tiny else cases)]

    def measure(
        self,
        part: str,
        cases: Sequence[tuple[int, int]],
        run: Callable[[list[list[int]], int], Stamps],
        weight: float = 2.0,
    ) -> None:
        """Every load once; what fails is a line of the table, not the end of the run."""
        config = make_config(self)
        rows: list[dict[str, Any]] = []
        for load in self.cases(cases):
            entry: dict[str, Any] = {"rows": load.rows, "prompt": load.prompt, "answer": load.answer}
            try:
                entry |= run(load.prompts(config.vocab_size), load.answer).figures()
                floor = step_floor(config, self.ceilings, load.rows, load.prompt + load.answer / 2, weight)
                step_ms = entry["step_ms"]
                entry |= {"floor_ms": 1e3 * floor, "of_roofline": 1e3 * floor / step_ms if step_ms else None}
            except Exception as error:
                entry["error"] = f"{type(error).__name__}: {error}"[:300]
                free(self.device)
            rows.append(entry)
            say(f"{part}: {entry}")
        self.report.add(part, {"device": self.name, "loads": rows})
        show(part, rows)


def make_config(bench: Bench) -> Any:
    model = bench._model if bench._model is not None else bench.plain()
    return model.config


def start(model: PreTrainedModel, tiny: bool, make: MakeBackend = make_backend) -> Engine:
    settings = EngineSettings(kv_cache_bytes=16 << 20 if tiny else None, max_rows=8 if tiny else 256)
    engine = Engine(model, settings, eos_token_ids=frozenset(), make_backend=make)
    began = time.perf_counter()
    engine.start()
    say(f"engine ready in {time.perf_counter() - began:.1f} s, {engine.limits}")
    return engine


def in_fp8(model: PreTrainedModel, chosen: Limits, settings: EngineSettings) -> Backend:
    from truss_model.engine.execution.cuda.backend import cuda_backend

    return cuda_backend(model, chosen, settings, fp8=True)


def show(part: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = [name for name in (*COLUMNS, "of_roofline", "error") if any(name in row for row in rows)]
    lines = [[f"{row['rows']} x {row['prompt']}", *(row.get(name, "") for name in columns)] for row in rows]
    table(part, ["rows x prompt", *columns], lines)


def run_environment(bench: Bench) -> None:
    result = environment(bench.device, bench.out)
    bench.report.add("environment", {"device": bench.name, **result})
    table("what works by itself", ["piece", "ok", "s", "error"], [
        [name, entry["ok"], entry["seconds"], entry.get("error", "")] for name, entry in result["works"].items()
    ])  # fmt: skip


def run_start(bench: Bench) -> None:
    result = ways(bench.device)
    bench.report.add("start", {"device": bench.name, "ways": result})
    columns = ("ok", "tokens_equal", "top1_agreement", "logprob_gap_max", "seconds", "error")
    rows = [[name, *(entry.get(column, "") for column in columns)] for name, entry in result.items()]
    table("every way of running, tiny model", ["way", *columns], rows)


def run_load(bench: Bench) -> None:
    """The checkpoint stays in the benchmarks' run folder for the next time."""
    bench.clear()
    folder = checkpoint_folder(run_folder(), tiny=bench.tiny)
    began = time.perf_counter()
    write_checkpoint(folder, bench.device, tiny=bench.tiny)
    written = time.perf_counter() - began
    result = {"device": bench.name, "written_s": written, **load_and_answer(folder, bench.device, tiny=bench.tiny)}
    free(bench.device)
    bench.report.add("load", result)
    table("load", ["what", "figure"], [[name, str(value)] for name, value in result.items()])


def run_ceilings(bench: Bench) -> None:
    found: Ceilings = bench.ceilings
    result = {
        "device": bench.name,
        "copy_tb_s": found.bytes_per_second / 1e12,
        "matmul_tflop_s": found.flops_per_second / 1e12,
    }
    bench.report.add("ceilings", result)
    table("ceilings", list(result), [list(result.values())])


def run_check(bench: Bench) -> None:
    """Our own runner beside no engine: the check needs logits of chosen tokens."""
    result: dict[str, Any] = {"tiny_float32": tiny_check(bench.device, lambda model: start(model, tiny=True))}
    bench.reference = reference_logits(bench.plain())
    result["against_transformers"] = compare(runner_of(bench), *bench.reference)
    bench.report.add("check", {"device": bench.name, **result})
    bench.clear()
    table("check", ["what", *result["against_transformers"]], [["ours", *result["against_transformers"].values()]])
    print("tiny float32 model, tokens equal to generate on the CPU:", result["tiny_float32"])


def runner_of(bench: Bench, make: MakeBackend = make_backend) -> ModelRunner:
    settings = EngineSettings(kv_cache_bytes=(16 << 20) if bench.tiny else (4 << 30), max_rows=4, cuda_graphs=True)
    model = bench.plain()
    runner = ModelRunner(model, limits(model, settings), frozenset(), settings, make)
    runner.warm_up()
    runner.record()
    return runner


def run_naive(bench: Bench) -> None:
    naive(bench.plain(), Load.of(1, 16, tiny=True).prompts(100), 8, static=False)
    bench.measure("naive", NAIVE, lambda prompts, answer: naive(bench.plain(), prompts, answer, static=False))


def run_static(bench: Bench) -> None:
    """Run twice, as the first one compiles."""

    def twice(prompts: list[list[int]], answer: int) -> Stamps:
        naive(bench.plain(), prompts, answer, static=True)
        return naive(bench.plain(), prompts, answer, static=True)

    bench.measure("static", STATIC, twice)


def run_batching(bench: Bench) -> None:
    """As it chooses itself, and with CUDA graphs and asynchronous steps forced."""

    def batching(graphs: bool | None) -> Callable[[list[list[int]], int], Stamps]:
        return lambda prompts, answer: continuous_batching(bench.plain(), prompts, answer, graphs=graphs)

    bench.measure("batching", BATCHING, batching(None))
    if bench.device.type == "cuda":
        bench.measure("batching, graphs", BATCHING_GRAPHS, batching(True))


def run_ours(bench: Bench) -> None:
    bench.clear()
    engine = bench.engine()
    bench.measure("ours", OURS, lambda prompts, answer: ours(engine, prompts, answer))


def run_profile(bench: Bench) -> None:
    if bench.device.type != "cuda":
        say("profile: of the GPU's kernels, and there is none")
        return
    engine, vocab = bench.engine(), make_config(bench).vocab_size
    result: dict[str, Any] = {"device": bench.name}
    for load in bench.cases([(1, 128), (64, 448)]):
        result[f"{load.rows} x {load.prompt}"] = found = profile(engine, load, vocab)
        kernels = found["kernels_ms_a_step"]
        table(f"a step of {load.rows} rows, ms by kernel", ["kernel", "ms"], [list(entry) for entry in kernels.items()])
    bench.report.add("profile", result)


def run_fp8(bench: Bench) -> None:
    """Needs a card of compute capability 9.0; the quality figures come first."""
    if bench.device.type != "cuda":
        say("fp8: the CPU has no such kernels; tests/engine/execution/cuda/test_model.py checks their arithmetic")
        return
    prompt, wanted = bench.reference or reference_logits(bench.plain())
    quality = compare(runner_of(bench, in_fp8), prompt, wanted)
    bench.report.add("fp8 quality", {"device": bench.name, **quality})
    table("fp8 against transformers in bfloat16", list(quality), [list(quality.values())])
    bench.clear()
    bench._engine = start(bench.plain(), bench.tiny, in_fp8)
    engine = bench._engine
    bench.measure("fp8", FP8, lambda prompts, answer: ours(engine, prompts, answer), weight=1.0)
    bench.clear()


RUN: dict[str, Callable[[Bench], None]] = {
    "environment": run_environment, "start": run_start, "load": run_load, "ceilings": run_ceilings,
    "check": run_check, "naive": run_naive, "static": run_static, "batching": run_batching,
    "ours": run_ours, "profile": run_profile, "fp8": run_fp8,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--stage", choices=STAGES, help="the parts of one stage, into a file of its own")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short loads: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    parts = STAGES[options.stage] if options.stage else options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    bench = Bench(device, options.tiny, options.out, options.stage)
    began = time.perf_counter()
    for part in PARTS:
        if part in parts:
            say(f"part {part}")
            RUN[part](bench)
    bench.clear()
    say(f"done in {time.perf_counter() - began:.0f} s, written to {bench.report.path}")


if __name__ == "__main__":
    main()
