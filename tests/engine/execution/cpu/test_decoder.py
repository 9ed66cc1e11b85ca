"""All layers in one call, step by step over pages, against transformers' own layers over the whole text."""

import copy
import ctypes
from collections.abc import Sequence

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

from tests.engine.execution.cpu.steps import scattered, step
from truss_model.engine.execution.attention import PagedKV, forward_over
from truss_model.engine.execution.cpu.attention import KernelPagedAttention
from truss_model.engine.execution.cpu.decoder import PackedDecoder
from truss_model.engine.execution.cpu.layers import WeightType
from truss_model.engine.execution.cpu.replace_layers import fits
from truss_model.engine.execution.model_support import use_pages
from truss_model.engine.execution.narrow_window import narrowed
from truss_model.errors import LoadError

LENGTHS = (330, 57)
WIDTH = 21  # pages of a row
# (row, first token, tokens): a prompt in parts, long ones shared between threads; a row that decodes beside one; two.
STEPS = (
    [(0, 0, 3)],
    [(0, 3, 290)],
    [(0, 293, 1), (1, 0, 40)],
    [(0, 294, 35), (1, 40, 16)],
    [(0, 329, 1), (1, 56, 1)],
)
ROUNDING = 1e-5
SHAPES = [(4, 4, 16), (9, 3, 64), (8, 1, 32)]


def made(
    kind: type[PretrainedConfig], window: int | None = None, shape: tuple[int, int, int] = (4, 2, 16)
) -> PreTrainedModel:
    heads, kv_heads, dim = shape
    config = kind(
        vocab_size=50, hidden_size=144, intermediate_size=208, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=dim, **({"sliding_window": window} if kind is MistralConfig else {}),
    )  # fmt: skip
    model = (MistralModel if kind is MistralConfig else LlamaModel)(config).eval()
    for name, weight in model.named_parameters():
        weight.data = 1 + 0.3 * torch.randn_like(weight) if "norm" in name else torch.randn_like(weight) / 12
    return model


class Stepwise:
    """The model with its layers packed, and pages for its rows."""

    def __init__(self, library: ctypes.CDLL, model: PreTrainedModel, weights: WeightType = "float32") -> None:
        self.model = copy.deepcopy(model)
        self._tables = scattered(len(LENGTHS), WIDTH)
        kv = PagedKV(model.config, self._tables.numel(), 16, torch.float32, torch.device("cpu"))
        self._attention = KernelPagedAttention(library, kv)
        self.model.layers.append(PackedDecoder(library, self.model.layers, self.model.norm, kv, weights))
        self.model.norm = torch.nn.Identity()
        use_pages(self.model)

    def __call__(
        self, embedded: Sequence[torch.Tensor], chunks: list[tuple[int, int, int]], **others: object
    ) -> list[torch.Tensor]:
        """The states behind the last norm of every chunk; embedded: of each row, [1, T, N]."""
        counts = [count for _, _, count in chunks]
        tables = self._tables[[row for row, _, _ in chunks]]
        batch = step(tables, [(count, begin + count) for _, begin, count in chunks])
        x = torch.cat([embedded[row][:, begin : begin + count] for row, begin, count in chunks], 1)
        kept = x.clone()
        with forward_over(self._attention, batch):
            made = self.model(inputs_embeds=x, position_ids=batch.positions, **{"use_cache": False, **others})
        assert torch.equal(x, kept)
        return list(made.last_hidden_state[0].split(counts))


def texts() -> list[torch.Tensor]:
    return [torch.randn(1, length, 144) for length in LENGTHS]


def worst(stepwise: Stepwise, model: PreTrainedModel) -> float:
    """The largest gap of any state in any step to the same computed in double precision."""
    embedded, exact = texts(), copy.deepcopy(model).double()
    with torch.inference_mode():
        wanted = [exact(inputs_embeds=text.double(), use_cache=False).last_hidden_state[0] for text in embedded]
        gaps = [
            float((states - wanted[row][begin : begin + count]).abs().max())
            for chunks in STEPS
            for (row, begin, count), states in zip(chunks, stepwise(embedded, chunks), strict=True)
        ]
    return max(gaps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig])
def test_steps_give_the_states_of_the_whole_text(
    library: ctypes.CDLL, kind: type[PretrainedConfig], shape: tuple[int, int, int]
) -> None:
    model = made(kind, None, shape)
    assert worst(Stepwise(library, model), model) < ROUNDING


@pytest.mark.parametrize("window", [1, 20, 300])
def test_windows(library: ctypes.CDLL, window: int) -> None:
    model = made(MistralConfig, window)
    assert worst(Stepwise(library, model), model) < ROUNDING


def test_a_window_that_llama_does_not_look_at_is_none(library: ctypes.CDLL) -> None:
    model = made(LlamaConfig)
    model.config.sliding_window = 20
    assert worst(Stepwise(library, model), model) < ROUNDING


def test_the_window_is_that_of_the_moment(library: ctypes.CDLL) -> None:
    model = made(MistralConfig, 300)
    stepwise = Stepwise(library, model)
    with narrowed(stepwise.model, 20), narrowed(model, 20):
        assert worst(stepwise, model) < ROUNDING


def test_bfloat16_weights(library: ctypes.CDLL) -> None:
    """Activations are rounded as well where the machine multiplies two bfloat16."""
    model = made(LlamaConfig)
    for name, weight in model.named_parameters():
        weight.data = weight.data if "norm" in name else weight.data.bfloat16().float()
    assert worst(Stepwise(library, model, "bfloat16"), model) < 0.05


def test_what_attention_is_asked_for_beside_is_refused(library: ctypes.CDLL) -> None:
    model = made(LlamaConfig)
    stepwise = Stepwise(library, model)
    for name, asked in (("past_key_values", DynamicCache()), ("softcap", 2.0)):
        with pytest.raises(LoadError, match=name):
            stepwise(texts(), STEPS[0], **{name: asked})
    with pytest.raises(LoadError, match="later tokens"):
        stepwise(texts(), STEPS[0], is_causal=False)


@pytest.mark.parametrize("part", ["heads", "mlp", "eps"])
def test_layers_that_are_not_all_alike_stay_as_they_are(part: str) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=3
    )
    model = LlamaForCausalLM(config)
    assert fits(model, 16)
    other = copy.deepcopy(config)
    if part == "eps":
        model.model.layers[1].input_layernorm.variance_epsilon = 1e-3
    elif part == "mlp":
        other.intermediate_size = 48
        model.model.layers[1].mlp = LlamaMLP(other)
    else:
        other.num_key_value_heads = 2
        model.model.layers[1].self_attn = LlamaAttention(other, 1)
    assert not fits(model, 16)


def test_rotary_embeddings_of_another_size_are_refused(library: ctypes.CDLL) -> None:
    stepwise = Stepwise(library, made(LlamaConfig))
    stepwise.model.rotary_emb = made(LlamaConfig, shape=(4, 2, 32)).rotary_emb
    with pytest.raises(ValueError, match=r"rotary embeddings \[3, 32\] for 3 tokens of 16"):
        stepwise(texts(), STEPS[0])
