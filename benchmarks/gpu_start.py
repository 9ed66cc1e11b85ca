"""The first minutes on a card: what is there, every way of running on a tiny model, the real loader on 7B shapes."""

import gc
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from benchmarks.gpu_checks import compare, reference_logits, tiny_check
from benchmarks.gpu_model import free, make_model
from benchmarks.gpu_runs import Load, ours
from benchmarks.report import say
from truss_model.engine.engine import Engine
from truss_model.engine.execution.limits import limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.settings import EngineSettings
from truss_model.loading import load_model
from truss_model.loading.cuda import cuda_state
from truss_model.settings import ModelSettings

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "accelerate", "numpy")
# The ways of running, from the fastest to the plainest; each must give the numbers of transformers' own forward.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "kernels, recorded": {},
    "kernels, eager": {"cuda_graphs": False},
    "plain torch": {"cuda_graphs": False, "cuda_kernels": "off"},
}
TINY_KV = 16 << 20


def environment(device: torch.device, folder: Path) -> dict[str, Any]:
    """What runs here, and whether each piece that the engine builds on works by itself."""
    state, compiler = cuda_state(), shutil.which("cc") or shutil.which("gcc")
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "cuda_of_torch": state.built_for,
        "driver": state.driver,
        "fault": state.fault,
        "compiler": first_line([compiler, "--version"]) if compiler else None,
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "disk_free_gb": shutil.disk_usage(folder).free / 1e9,
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found["card"] = {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "processors": card.multi_processor_count,
            "memory_gb": card.total_memory / 1e9,
            "free_gb": torch.cuda.mem_get_info(device)[0] / 1e9,
        }
    found["works"] = {name: attempt(partial(work, device)) for name, work in PIECES.items()}
    return found


def product(device: torch.device) -> None:
    a = torch.randn(256, 256, device=device)
    assert torch.isfinite((a @ a).sum())


def triton_kernel(device: torch.device) -> None:
    """One of ours against torch: the compiler, ptxas and Triton's launcher, which a C compiler builds."""
    from truss_model.engine.execution.cuda.elementwise import rms_norm

    x, gain = torch.randn(4, 256, device=device), torch.rand(256, device=device)
    torch.testing.assert_close(rms_norm(x, gain, 1e-5), torch.nn.functional.rms_norm(x, (256,), gain, 1e-5))


def recording(device: torch.device) -> None:
    from truss_model.engine.execution.cuda.backend import Recorder

    given, made = torch.ones(8, device=device), torch.zeros(8, device=device)
    replay = Recorder()(lambda: made.copy_(given * 2))
    given.fill_(21)
    replay()
    assert made.tolist() == [42.0] * 8


PIECES: Mapping[str, Callable[[torch.device], None]] = {
    "product": product, "triton kernel": triton_kernel, "recording": recording,
}  # fmt: skip


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """What fails is a line of the result, with its seconds, and not the end of the run."""
    began = time.perf_counter()
    try:
        made = work()
        entry: dict[str, Any] = {"ok": True, **(made if isinstance(made, dict) else {})}
    except Exception as error:
        entry = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000]}
    return {**entry, "seconds": time.perf_counter() - began}


def ways(device: torch.device) -> dict[str, Any]:
    """Each way of running on the tiny model: tokens in float32, and log probabilities in the card's own dtype."""
    return {name: attempt(partial(way, device, settings)) for name, settings in WAYS.items()}


def way(device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    chosen = EngineSettings(kv_cache_bytes=TINY_KV, max_rows=8, **settings)

    def engine_of(model: Any) -> Engine:
        engine = Engine(model, chosen, eos_token_ids=frozenset())
        engine.start()
        return engine

    found = tiny_check(device, engine_of)
    model = make_model(device, tiny=True)
    reference = reference_logits(model)
    runner = ModelRunner(model, limits(model, chosen), frozenset(), chosen)
    runner.warm_up()
    runner.record()
    return {**found, **compare(runner, *reference)}


def write_checkpoint(folder: Path, device: torch.device, *, tiny: bool) -> None:
    """Random weights of Mistral-7B-v0.3's shapes as a download leaves them: safetensors in shards, an index, config."""
    if (folder / "model.safetensors.index.json").exists():
        return
    model = make_model(device, tiny=tiny)
    model.config.architectures = [type(model).__name__]
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    model.config.save_pretrained(beside)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = tensor
    for file, tensors in shards.items():
        there = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(there, beside / file, {"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (beside / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    beside.rename(folder)
    del model
    free(device)


def load_and_answer(folder: Path, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """From files to a first answer by the real loader and engine: seconds, memory, and how many tokens the KV holds."""
    began = time.perf_counter()
    loaded = load_model(ModelSettings(path=folder, device="cuda" if device.type == "cuda" else "cpu"), {}, None)
    found: dict[str, Any] = {"load_s": time.perf_counter() - began, "loaded": memory(device)}
    began = time.perf_counter()
    chosen = EngineSettings(kv_cache_bytes=TINY_KV, max_rows=8) if tiny else EngineSettings()
    engine = Engine(loaded.model, chosen, eos_token_ids=frozenset())
    vocab = loaded.model.config.vocab_size
    del loaded
    try:
        engine.start()
        found |= {"start_s": time.perf_counter() - began, "started": memory(device)}
        found["kv_tokens"] = engine.limits.pages * engine.limits.page_size
        case = Load.of(1, 16, tiny=tiny)
        found["first_answer"] = ours(engine, case.prompts(vocab), case.answer).figures()
        found["served"] = memory(device)
    finally:
        engine.stop()
    return found


def memory(device: torch.device) -> dict[str, float]:
    """Gigabytes: held in tensors, lost inside of blocks, free on the card; on the CPU the process's own."""
    gc.collect()
    if device.type != "cuda":
        return {"process_gb": psutil.Process().memory_info().rss / 1e9}
    torch.cuda.empty_cache()
    held, taken = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"held_gb": held / 1e9, "lost_gb": (taken - held) / 1e9, "free_gb": torch.cuda.mem_get_info(device)[0] / 1e9}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]


def checkpoint_folder(root: Path, *, tiny: bool) -> Path:
    folder = root / ("gpu-tiny" if tiny else "gpu-mistral-7b-shapes")
    say(f"weights: {folder}")
    return folder
