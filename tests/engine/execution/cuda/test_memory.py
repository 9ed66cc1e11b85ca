"""Mistral-7B on cards of 24 and 80 GB: what loading and starting allocate, in their real order, leaves no holes.

The real code runs over tensors of the real sizes without data. Each is told to a model of torch's allocator when it is
made and when it is gone; the steps alone, whose kernels need data, are stood in for by allocations of their sizes.
"""

import json
import random
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from tests.engine.execution.cuda.caching_allocator import MB, Block, CachingAllocator, OutOfMemory
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.cuda.attention import GpuProperties
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.limits import Limits, limits, measured_limits
from truss_model.engine.settings import EngineSettings
from truss_model.loading.placement import Placement
from truss_model.loading.pretrained import load_pretrained

CONFIG = MistralConfig(
    vocab_size=32768, num_hidden_layers=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=32768,
    sliding_window=None, dtype=torch.bfloat16,
)  # fmt: skip
CARD = GpuProperties(processors=80, large_shared_memory=False)
CONTEXT = int(0.45e9)  # what a CUDA context with its libraries takes of a card
GIB = 1 << 30
KEPT_ROWS = (511, 256)  # of logits, by the recordings of steps in which all rows decode, and by the others together
CARDS = {"A10G": 22.06, "L4": 22.03, "A100": 79.25, "H100": 79.10}


class TrackedMemory(TorchDispatchMode):
    """A card's memory: storages are allocated when an operation makes them, and freed once nobody holds them."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.allocator = CachingAllocator(capacity)
        self._blocks: dict[StorageWeakRef, Block] = {}

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.hold(leaf)
        return made

    def hold(self, tensor: torch.Tensor) -> None:
        self._collect()
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in self._blocks and tensor.device.type == "meta" and tensor.untyped_storage().nbytes():
            self._blocks[storage] = self.allocator.allocate(tensor.untyped_storage().nbytes())

    def _collect(self) -> None:
        for storage in [storage for storage in self._blocks if storage.expired()]:
            self.allocator.free(self._blocks.pop(storage))

    def free(self) -> int:
        self.release()
        return self.allocator.capacity - self.allocator.reserved

    def release(self) -> None:
        self._collect()
        self.allocator.release()

    def peak(self, work: Callable[[], object]) -> int:
        self.release()
        before = self.allocator.peak_reserved = self.allocator.reserved
        work()
        return self.allocator.peak_reserved - before


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14.5 GB of weights that are a hole in a file, and take no disk."""
    folder = tmp_path_factory.mktemp("seven-b")
    CONFIG.architectures = ["MistralForCausalLM"]
    CONFIG.save_pretrained(folder)
    with torch.device("meta"):
        tensors = MistralForCausalLM(CONFIG).state_dict()
    header: dict[str, Mapping[str, object]] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # else the tensors are not aligned, and are copied when they are looked at
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def load(checkpoint: Path, memory: TrackedMemory, seed: int, *, by_name: bool = False) -> PreTrainedModel:
    """The real loader; it reads with four threads, so that neighbours change places."""
    model = load_pretrained(checkpoint, Placement("bfloat16", "meta", "", mapped=True), "none")
    names = [name for name, _ in model.named_parameters()]
    if by_name:  # within a layer; layers stay in their order, whatever their numbers are compared as
        names.sort(key=lambda name: (int((re.findall(r"\.(\d+)\.", name) or [-1])[0]), name))
    jitter = random.Random(seed)
    places = {name: at + jitter.uniform(0, 8 * (seed > 0)) for at, name in enumerate(names)}
    for name in sorted(names, key=lambda name: places[name]):
        memory.hold(model.get_parameter(name))
    return model


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def full_step(rows: int, tokens: int, vocabularies: int) -> None:
    """What the fused layers and the sampler hold at one time; vocabularies: float32 [rows, vocab]."""
    stream = empty(tokens, CONFIG.hidden_size)
    for _ in range(CONFIG.num_hidden_layers):
        joined, attended = empty(tokens, 6144), empty(tokens, CONFIG.hidden_size)
        del joined, attended
        normed, both = empty(tokens, CONFIG.hidden_size), empty(tokens, 2 * CONFIG.intermediate_size)
        gated = empty(tokens, CONFIG.intermediate_size)
        del normed, both, gated
    del stream
    held = [empty(rows, CONFIG.vocab_size)]
    held += [empty(rows, CONFIG.vocab_size, dtype=torch.float32) for _ in range(vocabularies)]


def recorded_steps(rows: int) -> None:
    """The largest ones, with prompts and without; what they need, the smaller ones share."""
    full_step(rows, 512, 0)
    full_step(rows, rows, 12)


def start(model: PreTrainedModel, memory: TrackedMemory, settings: EngineSettings) -> tuple[Backend, Limits]:
    """As ModelRunner does it: backend, steps over few pages, KV, recordings."""
    chosen = limits(model, settings, memory)
    backend = cuda_backend(model, chosen, settings, CARD, memory)
    rows, tokens = chosen.max_rows, chosen.token_budget
    steps = [lambda: full_step(rows, tokens, 24), lambda: recorded_steps(rows)]
    kept = sum(KEPT_ROWS) * CONFIG.vocab_size * CONFIG.dtype.itemsize
    chosen = measured_limits(model, chosen, settings.kv_cache_fraction, memory, steps, kept, backend.kv.resize)
    return backend, chosen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("card", CARDS)
def test_it_fits_without_holes(checkpoint: Path, card: str, seed: int) -> None:
    memory = TrackedMemory(int(CARDS[card] * GIB) - CONTEXT)
    model = load(checkpoint, memory, seed)
    loaded = memory.free()
    with memory, torch.inference_mode():
        backend, chosen = start(model, memory, EngineSettings())
        memory.release()
        assert memory.allocator.holes < 200 * MB
        assert chosen.pages * chosen.page_size >= (50_000 if CARDS[card] < 24 else 400_000)
        # What the layers left behind is there for the KV: nothing is lost but what blocks round up to.
        kv_bytes = backend.kv.keys.nbytes + backend.kv.values.nbytes
        assert memory.free() + kv_bytes > loaded - 200 * MB
        recordings = [empty(rows, CONFIG.vocab_size) for rows in KEPT_ROWS]
        recorded_steps(256)
        full_step(256, 2048, 24)
        assert recordings


def test_the_block_that_transformers_takes_first_would_not_leave_room(checkpoint: Path) -> None:
    """The model of the allocator tells what is avoided: weights cut out of one block, layers replaced beside the KV."""
    memory = TrackedMemory(int(CARDS["A10G"] * GIB) - CONTEXT)
    memory.allocator.free(memory.allocator.allocate(14_500_000_000))
    model = load(checkpoint, memory, seed=0, by_name=True)
    with memory, torch.inference_mode():
        kv = empty(7_230_000_000 // 2)
        with pytest.raises(OutOfMemory, match="of them free"):
            cuda_backend(model, limits(model, EngineSettings(), memory), EngineSettings(), CARD, memory)
        assert kv.nbytes
