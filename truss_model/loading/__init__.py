"""From settings to a model in memory: where the weights are, what fits, and how they are loaded."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from truss_model.loading.checkpoint import read_checkpoint
from truss_model.loading.cuda import CudaState, cuda_state
from truss_model.loading.demo import demo_folder
from truss_model.loading.placement import find_device, place
from truss_model.loading.pretrained import load_pretrained, out_of_memory
from truss_model.loading.weights import Sources, find_weights, only_demo
from truss_model.settings import ModelSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`folder` holds the tokenizer's files; `name` is what answers call the model. `reload` loads the weights again."""

    model: PreTrainedModel
    reload: Callable[[], PreTrainedModel]
    folder: Path
    name: str


def load_model(
    settings: ModelSettings,
    config: Mapping[str, Any],
    token: str | None,
    sources: Sources | None = None,
    cuda: CudaState | None = None,
) -> LoadedModel:
    """Find, check, place and load the weights. Raises LoadError with the cause and what to change."""
    cuda = cuda or cuda_state()
    accelerator = (config.get("resources") or {}).get("accelerator")
    required_by = f"resources.accelerator in config.yaml is {accelerator}" if accelerator else None
    if settings.device == "auto" and required_by and not cuda.usable and settings.demo_fallback:
        logger.warning("%s, but there is no usable GPU: serving from the CPU. %s", required_by, cuda.explain())
    may_be_cpu = settings.demo_fallback or only_demo(settings, config)
    device = find_device(settings.device, cuda, None if may_be_cpu else required_by)
    sources = sources or Sources(demo=functools.partial(demo_folder, settings.cache_dir))
    weights = find_weights(settings, config, token, sources, gpu=device.kind == "cuda")
    logger.info("Weights of %s: %s (%s).", weights.name, weights.folder, weights.source)
    placement = place(read_checkpoint(weights.folder), settings, device)
    load = functools.partial(load_pretrained, weights.folder, placement, settings.quantization)
    return LoadedModel(load(), load, weights.folder, weights.name)


__all__ = ["LoadedModel", "load_model", "out_of_memory"]
