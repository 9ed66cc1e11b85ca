"""What a recorded step reads is still there when it is replayed: a CUDA graph keeps addresses, not tensors."""

import dataclasses
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.cuda.attention import GpuProperties
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.execution.recording import Replay
from truss_model.engine.settings import EngineSettings

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
LIMITS = Limits(max_model_len=64, max_rows=2, token_budget=16, long_prefill=64, page_size=16, pages=8)


class Reads(TorchDispatchMode):
    """Lists every storage that an operation is given and none before it made. The interpreter's kernels count too:
    it makes an empty tensor like each of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._made: set[int] = set()
        self._alive: list[torch.Tensor] = []  # so that no address is used twice while the list is made
        self.read: dict[int, tuple[StorageWeakRef, str]] = {}

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                what = f"{function} reads {tensor.dtype} {list(tensor.shape)}"
                self.read.setdefault(storage._cdata, (StorageWeakRef(storage), what))
        made = function(*args, **(kwargs or {}))
        for tensor in tensors(made):
            if tensor.untyped_storage()._cdata not in self.read:
                self._alive.append(tensor)
                self._made.add(tensor.untyped_storage()._cdata)
        return made

    def finish(self) -> None:
        self._alive.clear()

    def gone(self) -> list[str]:
        return [what for storage, what in self.read.values() if storage.expired()]


def tensors(tree: object) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


class DroppingRecorder:
    """Keeps of the work what a CUDA graph keeps: nothing that holds a tensor."""

    def __init__(self) -> None:
        self.recorded: list[Reads] = []

    def __call__(self, work: Replay) -> Replay:
        work()
        with Reads() as reads:
            work()
        reads.finish()
        self.recorded.append(reads)
        return lambda: None


MODELS: Mapping[str, Any] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, head_dim=16, sliding_window=9)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "qwen, its own layers": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
}


@pytest.mark.parametrize("family", MODELS)
def test_everything_a_recording_reads_outlives_it(family: str) -> None:
    recorder = DroppingRecorder()

    def on_gpu_path(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        card = GpuProperties(processors=4, large_shared_memory=False)
        return dataclasses.replace(
            cuda_backend(model, limits, settings, card), capture=recorder, sample=TritonSampling(), tune=lambda: None
        )

    runner = ModelRunner(MODELS[family]().eval(), LIMITS, frozenset(), EngineSettings(), on_gpu_path)
    runner.warm_up()
    runner.record()
    gc.collect()
    # 16 tokens of one row that decodes and prompts; then two rows and one: the forward, and three kinds of sampling.
    forwards = [True, *[True, False, False, False] * 2]
    assert [len(reads.read) > 10 for reads in recorder.recorded] == forwards
    assert [reads.gone() for reads in recorder.recorded] == [[]] * 9
