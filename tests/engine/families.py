"""Families of transformers as tiny random models in float32, and what becomes of each: equal, or refused with a word.

scripts/families.py makes the README's table of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

COMMON: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # logits that differ
}
EXPERTS: Mapping[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
WINDOW: Mapping[str, Any] = {"sliding_window": 24}
SLIDING: Mapping[str, Any] = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True)
class Family:
    """One row of the table. refused: a part of the reason, or None where it is served. tools: how it writes calls."""

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None
    without: tuple[str, ...] = ()
    tools: str = ""

    def make(self) -> PreTrainedModel:
        options = {**COMMON, **self.options}
        config = CONFIG_MAPPING[self.config](**{k: v for k, v in options.items() if k not in self.without})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: PreTrainedModel = cast(Any, AutoModelForCausalLM).from_config(config, dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if "sink" in name:  # made empty by transformers
                parameter.data = torch.linspace(-1, 1, parameter.numel())
        return model


def rope(kind: str, **options: Any) -> Mapping[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


STATE, ALIBI, TURNS, CHUNKS = "keep another state than keys and values", "ALiBi", "change with the length", "chunked"
# What the table says of a refusal; a family that is made wrong on purpose has no row.
REASONS: Mapping[str, str] = {
    STATE: "recurrent or convolutional state",
    ALIBI: "positions by ALiBi",
    TURNS: "contexts beyond the original length, where the rotary frequencies change",
    CHUNKS: "attention in chunks",
}
# Checkpoints for text and images, and the family of their text parts; tests/model/loading/test_text_tower.py.
TEXT_PARTS: Mapping[str, tuple[str, ...]] = {"mistral3": ("mistral", "ministral3"), "gemma3": ("gemma3_text",)}
LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
LONGROPE = {
    **rope("longrope", factor=4.0, short_factor=[1.0] * 8, long_factor=[2.0] * 8),
    "original_max_position_embeddings": 64,
}
FAMILIES: Mapping[str, Family] = {
    "mistral": Family("mistral", tools="Mistral's"),
    "mistral, window": Family("mistral", WINDOW, tools="Mistral's"),
    "ministral": Family("ministral", SLIDING, tools="Mistral's"),
    "ministral3": Family("ministral3", tools="Mistral's"),
    "mixtral": Family("mixtral", EXPERTS, tools="Mistral's"),
    "llama": Family("llama"),
    "llama, llama3 rope": Family("llama", LLAMA3),
    "llama, linear rope": Family("llama", rope("linear", factor=4.0)),
    "llama, yarn": Family("llama", YARN),
    "llama, dynamic rope": Family("llama", rope("dynamic", factor=4.0), refused=TURNS),
    "qwen2": Family("qwen2", tools="Hermes'"),
    "qwen2, window": Family("qwen2", {**SLIDING, "use_sliding_window": True}, tools="Hermes'"),
    "qwen2_moe": Family("qwen2_moe", EXPERTS, tools="Hermes'"),
    "qwen3": Family("qwen3", tools="Hermes'"),
    "qwen3, yarn": Family("qwen3", YARN, tools="Hermes'"),
    "qwen3_moe": Family("qwen3_moe", EXPERTS, tools="Hermes'"),
    "qwen3_next": Family("qwen3_next", EXPERTS, refused=STATE),
    "qwen3_5_text": Family("qwen3_5_text", refused=STATE),
    "phi": Family("phi"),
    "phi3": Family("phi3"),
    "phi3, window": Family("phi3", WINDOW),
    "phi3, longrope": Family("phi3", {**LONGROPE, "original_max_position_embeddings": 64}, refused=TURNS),
    "gemma": Family("gemma"),
    "gemma2": Family("gemma2", SLIDING),
    "gemma3_text": Family("gemma3_text", SLIDING),
    "granite": Family("granite", {"logits_scaling": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1}),
    "granitemoe": Family("granitemoe", EXPERTS),
    "cohere": Family("cohere", {"logit_scale": 0.25}),
    "cohere2": Family("cohere2", SLIDING),
    "olmo": Family("olmo"),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3", SLIDING),
    "olmoe": Family("olmoe", EXPERTS),
    "glm": Family("glm"),
    "glm4": Family("glm4"),
    "gpt_oss": Family("gpt_oss", {**EXPERTS, **SLIDING}),
    "smollm3": Family("smollm3", tools="Hermes'"),
    "starcoder2": Family("starcoder2", WINDOW),
    "stablelm": Family("stablelm"),
    "nemotron": Family("nemotron"),
    "exaone4": Family("exaone4", SLIDING),
    "arcee": Family("arcee"),
    "helium": Family("helium"),
    "ernie4_5": Family("ernie4_5"),
    "hunyuan_v1_dense": Family("hunyuan_v1_dense"),
    "seed_oss": Family("seed_oss"),
    "apertus": Family("apertus"),
    "gpt_neox": Family("gpt_neox", without=("num_key_value_heads",)),
    "gpt2": Family("gpt2", without=("num_key_value_heads",)),
    "persimmon": Family("persimmon", without=("num_key_value_heads",)),
    "gpt2, other heads than it says": Family("gpt2", refused="keys [4, 16]"),
    "bloom": Family("bloom", refused=ALIBI),
    "mpt": Family("mpt", refused=ALIBI),
    "falcon, ALiBi": Family("falcon", {"alibi": True}, refused=ALIBI, without=("head_dim",)),
    "falcon_h1": Family("falcon_h1", refused=STATE),
    "lfm2": Family("lfm2", {"layer_types": ["conv", "full_attention"]}, refused=STATE),
    "mamba": Family("mamba", refused=STATE),
    "jamba": Family("jamba", EXPERTS, refused=STATE),
    "llama4_text": Family("llama4_text", EXPERTS, refused=CHUNKS),
}
