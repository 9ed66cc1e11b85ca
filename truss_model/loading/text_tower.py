"""The text part of a multimodal checkpoint, as the language model that it is by itself."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

ALSO = ("generation_config", "hf_quantizer", "is_quantized", "quantization_method")


def auto_class(folder: Path) -> Any:
    """The class that loads a folder: of language models, or of models of text and images, if it is one of those only.

    Mistral Small 3 and Ministral 3 are. Raises what transformers raises for a configuration that it cannot read.
    """
    kind = type(AutoConfig.from_pretrained(folder, local_files_only=True))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def text_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The text part with the model's own weights, or the model itself where it has no other part."""
    config = model.config.get_text_config(decoder=True)
    body = getattr(model.base_model, "language_model", None)
    if config is model.config or body is None or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return model
    with torch.device("meta"):  # an empty frame for the parts that are there
        tower: Any = cast(Any, AutoModelForCausalLM).from_config(config, dtype=model.dtype)
    setattr(tower, tower.base_model_prefix, body)
    tower.lm_head = model.lm_head
    for name in ALSO:
        if hasattr(model, name):
            setattr(tower, name, getattr(model, name))
    return cast(PreTrainedModel, tower.eval())
