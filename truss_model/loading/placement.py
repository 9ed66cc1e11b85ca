"""Which dtype, which device, and whether the weights fit there. Decides from figures; only `find_device` measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from truss_model.engine.execution.cpu.build import kernels
from truss_model.errors import LoadError
from truss_model.loading.checkpoint import Checkpoint
from truss_model.loading.cuda import CudaState
from truss_model.settings import ModelSettings, Quantization

GIB = 1024**3
# What a model needs beside its weights to serve anything: activations of a step, the CUDA context, a little KV cache.
BESIDE_WEIGHTS = {"cuda": 2 * GIB, "cpu": GIB // 2}
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "fp8": 1.0, "int4": 0.5625}
# Least compute capability of NVIDIA cards with the arithmetic in hardware.
CAPABILITY = {"bfloat16": (8, 0), "int4": (8, 0), "fp8": (8, 9)}
CARDS = {"T4": 16, "L4": 24, "A10G": 24, "A100_40GB": 40, "L40S": 48, "A100": 80, "H100": 80, "H200": 141, "B200": 180}

DtypeName = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class Device:
    """`fast_bfloat16`: multiplies bfloat16 matrices in hardware."""

    kind: Literal["cuda", "cpu"]
    name: str
    free_bytes: int
    capability: tuple[int, int] = (0, 0)
    fast_bfloat16: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """`device`: torch's name of the one device that the engine serves from.

    mapped: the files are mapped into the host's memory first, and the tensors moved to the device one by one.
    """

    dtype: DtypeName
    device: str
    summary: str
    mapped: bool = False


def find_device(wanted: Literal["auto", "cpu", "cuda"], cuda: CudaState, required_by: str | None = None) -> Device:
    """The first card, or the CPU where there is none or `wanted` says so.

    required_by: what else asks for a GPU. Raises LoadError where one is asked for and none is usable.
    """
    if wanted != "cpu" and cuda.usable:
        return _card(0)
    asked = "model_metadata.model.device is cuda" if wanted == "cuda" else required_by
    if asked is not None and wanted != "cpu":
        raise LoadError(
            f"{asked}, but no GPU can be used. {cuda.explain()} Choose an accelerator under resources in config.yaml "
            "whose host has that driver, or a torch that is built for an older CUDA; to serve from the CPU set "
            "model_metadata.model.device to cpu."
        )
    capabilities = torch.cpu.get_capabilities()
    # The engine's own kernels are faster in bfloat16 than in float32, on CPUs that cannot multiply it too.
    fast = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")) or kernels() is not None
    return Device("cpu", "the CPU", _free_memory(), fast_bfloat16=fast)


def _card(index: int) -> Device:
    capability = torch.cuda.get_device_capability(index)
    free, _ = torch.cuda.mem_get_info(index)
    return Device("cuda", torch.cuda.get_device_name(index), free, capability, capability >= CAPABILITY["bfloat16"])


def _free_memory() -> int:
    """What the kernel says is available, or what the container's limit leaves, if that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or no limit: "max"
        return free
    return min(free, limit - used)


def place(checkpoint: Checkpoint, settings: ModelSettings, device: Device) -> Placement:
    """Choose the dtype. Raises LoadError that says what would fit."""
    dtype = _dtype(checkpoint, settings, device)
    _check_quantization(checkpoint, settings.quantization, device)
    need = weight_bytes(checkpoint, dtype, settings.quantization)
    how = dtype if settings.quantization == "none" else f"{settings.quantization} over {dtype}"
    if need + BESIDE_WEIGHTS[device.kind] > device.free_bytes:
        raise LoadError(_too_small(checkpoint, dtype, settings.quantization, device))
    target = "cpu" if device.kind == "cpu" else "cuda:0"
    plain = settings.quantization == "none" and not checkpoint.quantized
    summary = f"{_gigabytes(need)} of weights in {how} on {device.name}"
    return Placement(dtype, target, summary, mapped=plain and device.kind == "cuda")


def weight_bytes(checkpoint: Checkpoint, dtype: DtypeName, quantization: Quantization) -> int:
    if checkpoint.quantized:
        return checkpoint.stored_bytes
    linear = checkpoint.linear_parameters if quantization != "none" else 0
    small = BYTES[quantization] if quantization != "none" else 0.0
    return int(linear * small + (checkpoint.parameters - linear) * BYTES[dtype])


def _dtype(checkpoint: Checkpoint, settings: ModelSettings, device: Device) -> DtypeName:
    if settings.dtype == "auto":
        if device.kind == "cuda":
            return "bfloat16" if device.fast_bfloat16 else "float16"
        return "bfloat16" if device.fast_bfloat16 and checkpoint.dtypes == {"BF16"} else "float32"
    if settings.dtype == "bfloat16" and device.kind == "cuda" and not device.fast_bfloat16:
        raise LoadError(
            f"{device.name} cannot calculate in bfloat16 (its compute capability is "
            f"{'.'.join(map(str, device.capability))}, 8.0 is needed). Set model_metadata.model.dtype to float16."
        )
    if settings.dtype == "float16" and device.kind == "cpu":
        raise LoadError("The CPU is slow and inexact in float16. Set model_metadata.model.dtype to float32 or auto.")
    return settings.dtype


def _check_quantization(checkpoint: Checkpoint, quantization: Quantization, device: Device) -> None:
    if quantization == "none":
        return
    if checkpoint.quantized:
        raise LoadError("The weights are stored quantised already. Set model_metadata.model.quantization to none.")
    least = CAPABILITY.get(quantization)
    if least is None or (device.kind == "cuda" and device.capability >= least):
        return
    if quantization == "fp8" and device.kind == "cpu":
        return
    raise LoadError(
        f"{device.name} cannot calculate with {quantization} weights: they need an NVIDIA GPU of compute capability "
        f"{'.'.join(map(str, least))} or above. Set model_metadata.model.quantization to int8 or none."
    )


def _too_small(checkpoint: Checkpoint, dtype: DtypeName, quantization: Quantization, device: Device) -> str:
    kind, free = device.kind, device.free_bytes
    need = weight_bytes(checkpoint, dtype, quantization) + BESIDE_WEIGHTS[kind]
    told = (
        f"{device.name} is too small: the model needs {_gigabytes(need)} of memory in "
        f"{dtype if quantization == 'none' else quantization}, and {_gigabytes(free)} are free."
    )
    options: list[Quantization] = [] if checkpoint.quantized else ["int8", "int4"]
    for option in options:
        smaller = weight_bytes(checkpoint, dtype, option) + BESIDE_WEIGHTS[kind]
        if smaller < need and smaller <= free and not (option == "int4" and kind == "cpu"):
            told += f" With model_metadata.model.quantization {option} it needs {_gigabytes(smaller)} and fits."
            break
    if kind == "cpu":
        return f"{told} Give the machine more memory (resources.memory in config.yaml), or choose a smaller model."
    fitting = [f"{card} ({size} GB)" for card, size in CARDS.items() if size * 0.95 * 1e9 >= need]
    cards = f" Accelerators that hold it: {', '.join(fitting)}." if fitting else " No single accelerator holds it."
    return f"{told}{cards} See resources.accelerator in config.yaml."


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
