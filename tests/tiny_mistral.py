"""A tiny random Mistral with the real v3 tokenizer, made on the spot: fast, senseless, and always the same."""

import shutil
from pathlib import Path

import mistral_common
import torch
from transformers import MistralConfig, MistralForCausalLM

TINY = MistralConfig(
    vocab_size=32768,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    sliding_window=None,
    max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    bos_token_id=1,
    eos_token_id=2,
)


def write_tiny_mistral(folder: Path) -> None:
    """A folder as a hub download leaves it: config, two shards of float32 weights, their index, the tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(TINY)
    model.save_pretrained(folder, max_shard_size="20MB")
    data = Path(mistral_common.__file__).parent / "data"
    shutil.copy(data / "mistral_instruct_tokenizer_240323.model.v3", folder / "tokenizer.model.v3")
