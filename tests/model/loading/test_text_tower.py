"""Of a checkpoint for text and images the text part is served: Mistral Small 3, Ministral 3, Gemma 3."""

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
)

from tests.engine.families import TEXT_PARTS
from truss_model.engine.engine import Engine
from truss_model.engine.settings import EngineSettings
from truss_model.loading import load_model
from truss_model.settings import ModelSettings

IDS = torch.tensor([[5, 9, 60, 33, 7]])
TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
IMAGES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip


def multimodal(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gemma3_text":
        vision = {**IMAGES, "model_type": "siglip_vision_model"}
        return Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4)
        ).eval()
    vision = {**IMAGES, "model_type": "pixtral", "head_dim": 16}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config={**TEXT, "model_type": family}, vision_config=vision, image_token_index=10)
    ).eval()


@pytest.mark.parametrize("family", [family for families in TEXT_PARTS.values() for family in families])
def test_the_text_part_is_loaded_and_served(tmp_path: Path, family: str) -> None:
    whole = multimodal(family)
    whole.save_pretrained(tmp_path)
    loaded = load_model(ModelSettings(device="cpu", path=tmp_path), {}, None)
    assert loaded.model.config.model_type == family
    assert not any("vision" in name for name, _ in loaded.model.named_parameters())
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(IDS).logits, whole(IDS).logits)
    engine = Engine(loaded.model, EngineSettings(kv_cache_bytes=4 << 20, max_rows=2), eos_token_ids=frozenset())
    engine.start()
    engine.stop()
    assert [attempt.outcome for attempt in engine.ladder.attempts] == ["serves"]
