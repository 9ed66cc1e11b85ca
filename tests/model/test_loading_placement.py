import pytest
import torch

from truss_model.errors import LoadError
from truss_model.loading.checkpoint import Checkpoint
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
    ("settings", "device", "dtype", "device_map"),
    [
        (ModelSettings(), A10G, "bfloat16", {"": "cuda:0"}),
        (ModelSettings(dtype="float16"), A10G, "float16", {"": "cuda:0"}),
        (ModelSettings(quantization="int8"), T4, "float16", {"": "cuda:0"}),
        (ModelSettings(), H100, "bfloat16", {"": "cuda:0"}),
        (ModelSettings(quantization="fp8"), H100, "bfloat16", {"": "cuda:0"}),
        (ModelSettings(), FAST_CPU, "bfloat16", {"": "cpu"}),
        (ModelSettings(), SLOW_CPU, "float32", {"": "cpu"}),
        (ModelSettings(dtype="float32"), FAST_CPU, "float32", {"": "cpu"}),
        (ModelSettings(quantization="int8"), FAST_CPU, "bfloat16", {"": "cpu"}),
    ],
)
def test_where_the_7b_goes(settings: ModelSettings, device: Device, dtype: str, device_map: object) -> None:
    placement = place(MISTRAL, settings, device)
    assert (placement.dtype, placement.device_map) == (dtype, device_map)


def test_a_placement_says_what_it_does() -> None:
    assert place(MISTRAL, ModelSettings(), A10G) == Placement(
        "bfloat16", {"": "cuda:0"}, "14.5 GB of weights in bfloat16 on NVIDIA A10G"
    )


def test_stored_quantised_weights_count_as_they_are_stored() -> None:
    assert weight_bytes(QUANTIZED, "float16", "none") == QUANTIZED.stored_bytes
    assert place(QUANTIZED, ModelSettings(), T4).device_map == {"": "cuda:0"}


@pytest.mark.parametrize(
    ("checkpoint", "settings", "device", "told"),
    [
        (MISTRAL, ModelSettings(), T4, ["Tesla T4 is too small", "16.6 GB", "15.6 GB are free", "int8", "A10G (24"]),
        (MISTRAL, ModelSettings(dtype="float32"), T4, ["A100_40GB (40 GB)", "int8"]),
        (MISTRAL, ModelSettings(), card("small", 4, (8, 0)), ["L4 (24 GB)"]),
        (MISTRAL, ModelSettings(), Device("cpu", "the CPU", GIB), ["the CPU is too small", "resources.memory"]),
        (MISTRAL, ModelSettings(dtype="bfloat16"), T4, ["Tesla T4 cannot calculate in bfloat16", "7.5", "float16"]),
        (MISTRAL, ModelSettings(dtype="float16"), FAST_CPU, ["float16", "float32"]),
        (MISTRAL, ModelSettings(quantization="fp8"), A10G, ["NVIDIA A10G cannot calculate with fp8", "8.9", "int8"]),
        (MISTRAL, ModelSettings(quantization="int4"), FAST_CPU, ["the CPU cannot calculate with int4", "int8"]),
        (QUANTIZED, ModelSettings(quantization="int8"), A10G, ["quantised already", "none"]),
    ],
)
def test_what_cannot_be_is_told_with_what_can(
    checkpoint: Checkpoint, settings: ModelSettings, device: Device, told: list[str]
) -> None:
    with pytest.raises(LoadError) as error:
        place(checkpoint, settings, device)
    assert [words for words in told if words not in error.value.message] == []


def test_the_device_of_this_machine() -> None:
    cpu = find_device("cpu")
    assert cpu.kind == "cpu" and cpu.free_bytes > 0
    assert find_device("auto").kind == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_not_there() -> None:
    with pytest.raises(LoadError, match="finds no usable GPU"):
        find_device("cuda")
