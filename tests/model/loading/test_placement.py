from typing import Literal

import pytest
import torch

from truss_model.errors import LoadError
from truss_model.loading.checkpoint import Checkpoint
from truss_model.loading.cuda import CudaState, cuda_state
from truss_model.loading.placement import GIB, Device, Placement, find_device, place, weight_bytes
from truss_model.settings import ModelSettings

MISTRAL = Checkpoint({}, 7_248_023_552, 6_979_321_856, 14_496_047_104, frozenset({"BF16"}))
QUANTIZED = Checkpoint({"quantization_config": {}}, 4_000_000_000, 0, 4_100_000_000, frozenset({"I32", "F16"}))


def card(name: str, gib: float, capability: tuple[int, int]) -> Device:
    return Device("cuda", name, int(gib * GIB), capability, fast_bfloat16=capability >= (8, 0))


T4 = card("Tesla T4", 14.5, (7, 5))
A10G = card("NVIDIA A10G", 22, (8, 6))
H100 = card("NVIDIA H100", 78, (9, 0))
FAST_CPU = Device("cpu", "the CPU", 64 * GIB, fast_bfloat16=True)
SLOW_CPU = Device("cpu", "the CPU", 64 * GIB, fast_bfloat16=False)


@pytest.mark.parametrize(
    ("settings", "device", "dtype", "target"),
    [
        (ModelSettings(), A10G, "bfloat16", "cuda:0"),
        (ModelSettings(dtype="float16"), A10G, "float16", "cuda:0"),
        (ModelSettings(quantization="int8"), T4, "float16", "cuda:0"),
        (ModelSettings(), H100, "bfloat16", "cuda:0"),
        (ModelSettings(quantization="fp8"), H100, "bfloat16", "cuda:0"),
        (ModelSettings(), FAST_CPU, "bfloat16", "cpu"),
        (ModelSettings(), SLOW_CPU, "float32", "cpu"),
        (ModelSettings(dtype="float32"), FAST_CPU, "float32", "cpu"),
        (ModelSettings(quantization="int8"), FAST_CPU, "bfloat16", "cpu"),
    ],
)
def test_where_the_7b_goes(settings: ModelSettings, device: Device, dtype: str, target: str) -> None:
    placement = place(MISTRAL, settings, device)
    assert (placement.dtype, placement.device) == (dtype, target)


def test_a_placement_says_what_it_does() -> None:
    assert place(MISTRAL, ModelSettings(), A10G) == Placement(
        "bfloat16", "cuda:0", "14.5 GB of weights in bfloat16 on NVIDIA A10G", mapped=True
    )


def test_quantised_weights_go_straight_to_the_device() -> None:
    assert not place(MISTRAL, ModelSettings(quantization="int8"), A10G).mapped
    assert not place(QUANTIZED, ModelSettings(), A10G).mapped


def test_stored_quantised_weights_count_as_they_are_stored() -> None:
    assert weight_bytes(QUANTIZED, "float16", "none") == QUANTIZED.stored_bytes
    assert place(QUANTIZED, ModelSettings(), T4).device == "cuda:0"


LARGE = "A100_40GB (40 GB), L40S (48 GB), A100 (80 GB), H100 (80 GB), H200 (141 GB), B200 (180 GB)"
LARGER = f"L4 (24 GB), A10G (24 GB), {LARGE}"
AN_INT8 = "With model_metadata.model.quantization int8 it needs"
HOLD = "Accelerators that hold it: {}. See resources.accelerator in config.yaml."
NO_ARITHMETIC = (
    "{} cannot calculate with {} weights: they need an NVIDIA GPU of compute capability {} or above. Set "
    "model_metadata.model.quantization to int8 or none."
)


@pytest.mark.parametrize(
    ("checkpoint", "settings", "device", "told"),
    [
        (
            MISTRAL, ModelSettings(), T4,
            "Tesla T4 is too small: the model needs 16.6 GB of memory in float16, and 15.6 GB are free. "
            f"{AN_INT8} 9.7 GB and fits. {HOLD.format(LARGER)}",
        ),
        (
            MISTRAL, ModelSettings(dtype="float32"), T4,
            "Tesla T4 is too small: the model needs 31.1 GB of memory in float32, and 15.6 GB are free. "
            f"{AN_INT8} 10.2 GB and fits. {HOLD.format(LARGE)}",
        ),
        (
            MISTRAL, ModelSettings(), card("small", 4, (8, 0)),
            "small is too small: the model needs 16.6 GB of memory in bfloat16, and 4.3 GB are free. "
            + HOLD.format(LARGER),
        ),
        (
            MISTRAL, ModelSettings(), Device("cpu", "the CPU", GIB),
            "the CPU is too small: the model needs 15.0 GB of memory in bfloat16, and 1.1 GB are free. Give the "
            "machine more memory (resources.memory in config.yaml), or choose a smaller model.",
        ),
        (
            MISTRAL, ModelSettings(dtype="bfloat16"), T4,
            "Tesla T4 cannot calculate in bfloat16 (its compute capability is 7.5, 8.0 is needed). Set "
            "model_metadata.model.dtype to float16.",
        ),
        (
            MISTRAL, ModelSettings(dtype="float16"), FAST_CPU,
            "The CPU is slow and inexact in float16. Set model_metadata.model.dtype to float32 or auto.",
        ),
        (MISTRAL, ModelSettings(quantization="fp8"), A10G, NO_ARITHMETIC.format("NVIDIA A10G", "fp8", "8.9")),
        (MISTRAL, ModelSettings(quantization="int4"), T4, NO_ARITHMETIC.format("Tesla T4", "int4", "8.0")),
        (MISTRAL, ModelSettings(quantization="int4"), FAST_CPU, NO_ARITHMETIC.format("the CPU", "int4", "8.0")),
        (
            QUANTIZED, ModelSettings(quantization="int8"), A10G,
            "The weights are stored quantised already. Set model_metadata.model.quantization to none.",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_what_can(
    checkpoint: Checkpoint, settings: ModelSettings, device: Device, told: str
) -> None:
    with pytest.raises(LoadError) as error:
        place(checkpoint, settings, device)
    assert error.value.message == told


def test_the_device_of_this_machine() -> None:
    cpu = find_device("cpu", cuda_state(), "resources.accelerator in config.yaml is A10G")
    assert cpu.kind == "cpu" and cpu.free_bytes > 0
    assert find_device("auto", cuda_state()).kind == ("cuda" if torch.cuda.is_available() else "cpu")


OLD_DRIVER = CudaState(
    "2.13.0+cu130", "13.0", "535.183.01", "The NVIDIA driver on your system is too old (found version 12020)."
)


@pytest.mark.parametrize(
    ("wanted", "required_by", "asked"),
    [
        ("cuda", None, "model_metadata.model.device is cuda"),
        ("auto", "resources.accelerator in config.yaml is A10G", "resources.accelerator in config.yaml is A10G"),
    ],
)
def test_a_gpu_that_is_asked_for_and_cannot_be_used(
    wanted: Literal["auto", "cuda"], required_by: str | None, asked: str
) -> None:
    with pytest.raises(LoadError) as error:
        find_device(wanted, OLD_DRIVER, required_by)
    assert error.value.message == (
        f"{asked}, but no GPU can be used. torch says: The NVIDIA driver on your system is too old (found version "
        "12020). The host's NVIDIA driver is 535.183.01; torch 2.13.0+cu130 for CUDA 13.0 needs 580 or newer. Choose "
        "an accelerator under resources in config.yaml whose host has that driver, or a torch that is built for an "
        "older CUDA; to serve from the CPU set model_metadata.model.device to cpu."
    )
