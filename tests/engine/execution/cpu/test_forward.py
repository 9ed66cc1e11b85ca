"""A packed model's own way from token ids to logits, against transformers' forward of the same weights."""

import copy
import ctypes

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tests.engine.conftest import SMALL, VOCAB, make_model
from tests.engine.execution.cpu.steps import scattered, step
from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.cpu.forward import forward_of
from truss_model.engine.execution.cpu.layers import WeightType
from truss_model.engine.execution.cpu.replace_layers import replace_layers
from truss_model.engine.execution.model_support import use_pages

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


class ScaledLlama(LlamaForCausalLM):
    """Stands for a family that builds on Llama and does something to what comes out of the head."""


def packed(library: ctypes.CDLL, model: PreTrainedModel, weights: WeightType = "float32") -> PreTrainedModel:
    kv = PagedKV(model.config, 8, 16, torch.float32, torch.device("cpu"))
    replace_layers(library, model, kv, weights)
    use_pages(model)
    return model


@pytest.mark.parametrize(("family", "window"), [("mistral", 5), ("llama", None)], ids=["mistral", "llama, tied"])
@torch.inference_mode()
def test_logits_are_transformers(library: ctypes.CDLL, family: str, window: int | None) -> None:
    plain = make_model(window, family)
    forward = forward_of(packed(library, copy.deepcopy(plain)), 64)
    assert forward is not None
    batch = step(scattered(2, 2), [(20, 20), (7, 7)])
    batch.tokens = torch.randint(0, VOCAB, (1, 27))
    batch.sampled = torch.tensor([3, 19, 26])
    first, second = (plain(input_ids=part).logits[0] for part in batch.tokens.split([20, 7], 1))
    expected = torch.stack([first[3], first[19], second[6]])
    torch.testing.assert_close(forward(batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@torch.inference_mode()
def test_a_step_in_which_no_row_samples_has_no_logits(library: ctypes.CDLL, weights: WeightType) -> None:
    """A chunk of a long prompt, alone."""
    forward = forward_of(packed(library, make_model(), weights), 64)
    assert forward is not None
    batch = step(scattered(1, 2), [(20, 20)])
    batch.sampled = torch.tensor([], dtype=torch.int64)
    assert forward(batch).shape == (0, VOCAB)


@pytest.mark.parametrize(
    "model",
    [
        lambda: ScaledLlama(LlamaConfig(**SMALL)),
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=DYNAMIC)),
    ],
    ids=["a family of its own", "frequencies that change"],
)
def test_other_models_keep_their_own_forward(library: ctypes.CDLL, model: type[PreTrainedModel]) -> None:
    assert forward_of(packed(library, model().eval()), 64) is None
