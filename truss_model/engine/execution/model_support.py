"""Which models the engine can serve, as far as their configuration tells; the self-check finds the others."""

from typing import Any

from transformers import PreTrainedModel

from truss_model.engine.execution.attention import IMPLEMENTATION
from truss_model.errors import LoadError

LAYER_TYPES = {"full_attention", "sliding_attention"}
ALIBI = {"bloom", "mpt"}  # families that have no other way to tell positions


def family(model: PreTrainedModel) -> str:
    """transformers' name of it, as in config.json."""
    return str(model.config.model_type)


def check_support(model: PreTrainedModel) -> None:
    """Raise LoadError with the family's name and the reason, where the engine's pages cannot hold the model's state."""
    reason = _refusal(model)
    if reason is not None:
        raise LoadError(f"The engine cannot serve models of the family {family(model)}: {reason}.")


def check_positions(model: PreTrainedModel, longest: int) -> None:
    """Raise LoadError where a context of `longest` tokens would turn the rotary frequencies of all rows beside it."""
    for rope in _rope_parameters(model):
        # Dynamic NTK scales with the longest context at hand; longrope has two tables, for short and for long contexts.
        limit = rope.get("original_max_position_embeddings") or getattr(
            model.config, "original_max_position_embeddings", None
        )
        if rope.get("rope_type") == "dynamic":
            limit = limit or model.config.max_position_embeddings
        elif rope.get("rope_type") != "longrope":
            continue
        if limit is None or longest > limit or (rope.get("rope_type") == "dynamic" and longest >= limit):
            raise LoadError(
                f"The engine cannot serve models of the family {family(model)} with contexts of {longest} tokens: "
                f"their rotary frequencies change with the length of the context ({rope.get('rope_type')}). Set "
                f"model_metadata.engine.max_model_len to at most {int(limit or longest) - 1}."
            )


def _rope_parameters(model: PreTrainedModel) -> list[dict[str, Any]]:
    """All of a model's: some families have one for each kind of layer."""
    found = getattr(model.config, "rope_parameters", None) or {}
    if "rope_type" in found:
        return [found]
    return [rope for rope in found.values() if isinstance(rope, dict)]


def use_pages(model: PreTrainedModel) -> None:
    """Have the model's attention go over the pages. Raises LoadError where it cannot."""
    model.set_attn_implementation(IMPLEMENTATION)
    if model.config._attn_implementation != IMPLEMENTATION:
        raise LoadError(
            f"The engine cannot serve models of the family {family(model)}: "
            "their attention is not one that transformers lets others replace."
        )


def _refusal(model: PreTrainedModel) -> str | None:
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder beside its decoder"
    kinds = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if kinds:
        return f"its layers of the kind {', '.join(sorted(kinds))} keep another state than keys and values"
    if getattr(type(model), "_is_stateful", False):
        return "it keeps recurrent or convolutional state beside keys and values"
    attention = getattr(config, "attn_config", None)
    if family(model) in ALIBI or getattr(config, "alibi", False) or getattr(attention, "alibi", False):
        return "it tells positions by ALiBi, which the engine's attention does not compute"
    if getattr(config, "num_hidden_layers", 0) and not model._can_set_attn_implementation():
        return "its attention is not one that transformers lets others replace"
    return None
