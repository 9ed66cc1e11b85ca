"""A folder of weights -> the transformers model on its device, quantised if asked for. It fails with LoadError."""

import importlib.util
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, TorchAoConfig

from truss_model.errors import LoadError
from truss_model.loading.checkpoint import REPAIR
from truss_model.loading.placement import Placement
from truss_model.loading.text_tower import auto_class, text_tower
from truss_model.settings import Quantization

logger = logging.getLogger(__name__)

TORCHAO = "torchao==0.18.0"
READERS = 4  # threads that read weights from disk and copy them to the device


def load_pretrained(folder: Path, placement: Placement, quantization: Quantization) -> PreTrainedModel:
    """Load to the device. The host holds a weight no longer than it takes to move it, if its dtype stays."""
    logger.info("Loading %s from %s.", placement.summary, folder)
    start = time.monotonic()
    options: dict[str, Any] = {}
    if quantization != "none":
        options["quantization_config"] = _torchao(quantization)
    with loading(folder, placement):
        loaded: Any = auto_class(folder).from_pretrained(
            folder,
            dtype=getattr(torch, placement.dtype),
            device_map={"": "cpu" if placement.mapped else placement.device},
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named in the report, which is checked below
            **options,
        )
        model: PreTrainedModel = loaded[0]
        _check(model, loaded[1], folder)
        del loaded
        model = text_tower(model)
        if placement.mapped:
            _move(model, torch.device(placement.device))
    logger.info("Loaded in %.1f s.", time.monotonic() - start)
    return model


def _move(model: PreTrainedModel, device: torch.device) -> None:
    """Tensor by tensor, each into memory of its own.

    transformers, told of the device, would take one block for all weights first, and cut it up: while one weight is in
    it, nothing of what others leave behind can be given back, and the engine replaces most of them.
    """

    def moved(parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to(device), requires_grad=False)

    parameters = list(model.parameters())  # tied ones once
    with ThreadPoolExecutor(READERS) as pool:
        instead = dict(zip(parameters, pool.map(moved, parameters), strict=True))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, instead[parameter])
    cast(nn.Module, model).to(device)  # the buffers


def _torchao(quantization: Quantization) -> TorchAoConfig:
    if importlib.util.find_spec("torchao") is None:
        raise LoadError(
            f"model_metadata.model.quantization is {quantization}, which needs torchao. Add {TORCHAO} to the "
            "requirements in config.yaml, or set quantization to none."
        )
    from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if quantization == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    if quantization == "fp8":
        return TorchAoConfig(Float8WeightOnlyConfig())
    # Of the packings only this one's kernel is part of torch itself.
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=128, int4_packing_format="tile_packed_to_4d"))


@contextmanager
def loading(folder: Path, placement: Placement) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LoadError(out_of_memory(f"Loading {placement.summary}")) from error
    except SafetensorError as error:
        raise LoadError(f"A shard in {folder} is corrupt: {error}. {REPAIR}") from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise LoadError(
            f"transformers cannot load {folder}: {cause} Check that config.json belongs to these weights and that "
            "its architecture is one that transformers has."
        ) from error


def out_of_memory(doing: str) -> str:
    return (
        f"{doing} ran out of GPU memory. Set model_metadata.model.quantization to int8 or int4, lower "
        "engine.kv_cache_fraction or engine.max_rows, or choose a larger accelerator under resources in config.yaml."
    )


def _check(model: PreTrainedModel, report: dict[str, Any], folder: Path) -> None:
    """transformers would serve random numbers for what is missing, with a warning."""
    for what, words in (("missing_keys", "lack"), ("mismatched_keys", "have the wrong shape for")):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in report.get(what, ()))
        if names:
            raise LoadError(
                f"The weights in {folder} {words} {len(names)} of the model's tensors, {names[0]} among them. "
                f"Check that config.json belongs to these weights. {REPAIR}"
            )
    outside = {str(place) for place in getattr(model, "hf_device_map", {}).values()} & {"disk", "meta"}
    if outside:
        raise LoadError("The GPUs are too small: parts of the model would have to stay on disk.")
