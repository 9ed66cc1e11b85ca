"""The fused layers in a model behind the engine: transformers' own tokens. Kernels run in Triton's interpreter."""

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.engine.conftest import collect, reference
from truss_model.engine.engine import Engine
from truss_model.engine.execution.attention import IMPLEMENTATION, forward_over
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cuda.attention import GpuProperties, TritonPagedAttention
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.cuda.layers import FusedDecoderLayer
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.cuda.vector import Tiling
from truss_model.engine.execution.cuda.weights import Head, Weight
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.execution.recording import Replay
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

# The interpreter takes a millisecond a program.
SMALL = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CARD = GpuProperties(processors=4, large_shared_memory=False)
TILING = Tiling(64, 64, 4, 2)
LIMITS = Limits(max_model_len=64, max_rows=2, token_budget=16, long_prefill=64, page_size=16, pages=8)


def make_model(family: str = "mistral", window: int | None = None) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True, sliding_window=window)).eval()
        if family == "qwen":
            return Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()
        return MistralForCausalLM(MistralConfig(**SMALL, head_dim=16, sliding_window=window)).eval()


class HalvedLinear(nn.Linear):
    """Stands for a layer of a quantiser that the kernels know nothing of: its weight is not what it multiplies with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2.0

    @classmethod
    def instead_of(cls, linear: nn.Linear) -> "HalvedLinear":
        made = cls(linear.in_features, linear.out_features, bias=False)
        made.weight = nn.Parameter(linear.weight.detach() / 2)
        return made


class Float8Tensor(torch.Tensor):
    """The shape of torchao's: a tensor of the model's dtype that keeps 8-bit floats and their scales beside."""

    qdata: torch.Tensor
    scale: torch.Tensor


REPLAYS: list[None] = []


def record(work: Replay) -> Replay:
    work()

    def replay() -> None:
        REPLAYS.append(None)
        work()

    return replay


def on_gpu_path(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Every kernel, the one for single tokens included, and recordings that do their work again, and are counted."""
    backend = dataclasses.replace(
        cuda_backend(model, limits, settings, CARD), capture=record, sample=TritonSampling(), tune=lambda: None
    )
    for weight in weights_of(model):
        weight.tiling = TILING
    return backend


def weights_of(model: PreTrainedModel) -> list[Weight]:
    layers = [layer for layer in model.base_model.layers if isinstance(layer, FusedDecoderLayer)]
    parts = [part.weight for layer in layers for part in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    head = [model.lm_head.weight] if isinstance(model.lm_head, Head) else []
    return [weight for weight in (*parts, *head) if weight is not None]


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.stop()


def start(engines: list[Engine], model: PreTrainedModel, *, recordings: bool = False) -> Engine:
    settings = EngineSettings(
        kv_cache_bytes=1 << 20, max_rows=2, token_budget=16, max_model_len=64, cuda_graphs=recordings
    )
    engine = Engine(model, settings, eos_token_ids=frozenset(), make_backend=on_gpu_path)
    engine.start()
    engines.append(engine)
    return engine


async def check(engine: Engine, plain: PreTrainedModel, *, recordings: bool = False) -> None:
    """One row decodes, alone at first and at last, beside one whose prompt comes in chunks."""
    prompts = {(5, 6): 6, (7, 8) * 9: 2}
    REPLAYS.clear()
    running = [
        collect(engine.submit(prompt, SamplingParams(max_tokens=tokens, temperature=0.0)))
        for prompt, tokens in prompts.items()
    ]
    answers = [answer.tokens for (answer,) in await asyncio.gather(*running)]
    assert answers == [reference(plain, list(prompt), tokens) for prompt, tokens in prompts.items()]
    # A forward and a sampling a step, whatever is in it.
    assert len(REPLAYS) == 2 * engine.stats().steps * recordings


@pytest.mark.parametrize(
    ("family", "window", "recordings"),
    [("mistral", 9, True), ("llama", None, False), ("llama", 9, False)],
    ids=["mistral", "llama tied", "llama with a window that it does not look at"],
)
async def test_fused_layers_give_the_tokens_of_transformers(
    engines: list[Engine], family: str, window: int | None, recordings: bool
) -> None:
    model = make_model(family, window)
    await check(start(engines, model, recordings=recordings), make_model(family, window), recordings=recordings)
    assert len(weights_of(model)) == 2 * 4 + 1


def test_layers_that_are_asked_for_what_they_do_not_compute_refuse_it() -> None:
    model = make_model("llama")
    cuda_backend(model, LIMITS, EngineSettings(), CARD)
    with pytest.raises(LoadError, match="FusedDecoderLayer asks its attention for softcap"):
        model.model.layers[0](torch.zeros(1, 1, 64), (torch.zeros(1), torch.zeros(1)), softcap=2.0)


async def test_layers_of_an_unknown_quantiser_are_called_as_they_are(engines: list[Engine]) -> None:
    model = make_model()
    first, second = model.model.layers
    first.self_attn.k_proj = HalvedLinear.instead_of(first.self_attn.k_proj)
    first.mlp.down_proj = HalvedLinear.instead_of(first.mlp.down_proj)
    second.self_attn.o_proj = HalvedLinear.instead_of(second.self_attn.o_proj)
    second.mlp.up_proj = HalvedLinear.instead_of(second.mlp.up_proj)
    model.lm_head = HalvedLinear.instead_of(model.lm_head)
    await check(start(engines, model), make_model())
    assert len(weights_of(model)) == 4


async def test_another_family_keeps_its_layers_and_gets_the_attention(engines: list[Engine]) -> None:
    model = make_model("qwen")
    await check(start(engines, model, recordings=True), make_model("qwen"), recordings=True)
    assert weights_of(model) == []


async def test_int8_layers_of_torchao_are_fused_and_say_what_they_said(engines: list[Engine]) -> None:
    model, plain = make_model(), make_model()
    for each in (model, plain):
        quantize_(each.model.layers, Int8WeightOnlyConfig())
    await check(start(engines, model), plain)
    eight_bits = [weight for weight in weights_of(model) if weight.matrix.dtype == torch.int8]
    assert len(eight_bits) == 2 * 4


def test_weights_in_8_bit_floats_of_torchao_are_read_where_they_are() -> None:
    linear = nn.Linear(32, 16, bias=False)
    plain = linear.weight.detach()
    held = plain.as_subclass(Float8Tensor)
    scale = plain.abs().amax(1, keepdim=True) / 448
    linear.weight = nn.Parameter(held, requires_grad=False)
    held = linear.weight
    held.qdata, held.scale = (plain / scale).to(torch.float8_e4m3fn), scale
    weight = Weight.of([linear])
    assert weight is not None and weight.scales is not None
    assert weight.matrix.data_ptr() == held.qdata.data_ptr()
    assert torch.equal(weight.scales, scale[:, 0])


def logits(model: PreTrainedModel, backend: Backend, tokens: list[int]) -> torch.Tensor:
    count = len(tokens)
    batch = StepBatch(
        tokens=torch.tensor([tokens]),
        positions=torch.arange(count)[None],
        slots=torch.arange(count) + 16,
        tables=torch.tensor([[1, 2]], dtype=torch.int32),
        starts=torch.tensor([0, count], dtype=torch.int32),
        contexts=torch.tensor([count], dtype=torch.int32),
        sampled=torch.arange(count),
        longest=count,
        decodes=0,
    )
    model.set_attn_implementation(IMPLEMENTATION)
    with forward_over(backend.attention, batch):
        out: torch.Tensor = model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False).logits[0]
    return out


@pytest.mark.usefixtures("memory_of_nan")
def test_tokens_that_fill_a_recorded_step_up_are_numbers_in_every_layer() -> None:
    """And stay so: the keys and values of all of them go to one page."""
    runner = ModelRunner(make_model(), LIMITS, frozenset(), EngineSettings(), on_gpu_path)
    runner.record()
    params = SamplingParams(temperature=0.0, top_logprobs=1)
    for _ in range(2):
        row = Row(Generation(5, 1, lambda *_: None), 0, [3, 1, 4, 1, 5], 5, params, 0, pages=[2])
        sampled = runner.step(StepPlan([Chunk(row, 0, 5, samples=True)]))
    assert sampled.tokens == reference(make_model(), row.tokens, 1)
    for pages in (runner.kv.keys, runner.kv.values):
        written = pages[:, runner.kv.padding_page, :, 0]
        assert written.isfinite().all() and (written != 0).all()


@torch.inference_mode()
def test_fp8_weights_stay_near_the_full_ones() -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    wanted = make_model()(torch.tensor([tokens])).logits[0]
    made = {}
    for fp8 in (False, True):
        model = make_model()
        made[fp8] = logits(model, cuda_backend(model, LIMITS, EngineSettings(), CARD, fp8=fp8), tokens)
    assert torch.allclose(made[False], wanted, atol=1e-4)
    assert ((made[True] - wanted).norm() / wanted.norm()) < 0.15
    assert not torch.allclose(made[True], wanted, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compile_leaves_the_layers_to_torch() -> None:
    model = make_model()
    backend = cuda_backend(model, LIMITS, EngineSettings(compile=True), CARD)
    assert isinstance(backend.attention, TritonPagedAttention)
    assert weights_of(model) == []
    assert model.model.layers[0].mlp._compiled_call_impl is not None
