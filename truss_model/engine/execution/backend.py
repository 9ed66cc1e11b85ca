"""What a device makes of a model: its KV memory, its attention, its kernels in the model's place. One per engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import PagedAttention, PagedKV, TorchPagedAttention
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.device_memory import DeviceMemory, device_memory
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.sampling import Sample, torch_sample
from truss_model.engine.settings import EngineSettings

OWN_LAYERS = "transformers'"
Capture = Callable[[Callable[[], object]], Callable[[], object]]
Forward = Callable[[StepBatch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Backend:
    """`asynchronous`: steps run beside the host; the next can be launched before the last one's tokens are read.

    `capture` makes a replay of device work that always does the same, or is None where that cannot be. `tune` chooses
    between kernels by measurement; called once, before anything is captured. `layers`: whose the model's layers are,
    for the log: "fused", "compiled" or "transformers'". `memory`: of a device of its own.
    `warm_rows`: so many rows decode in steps that are run at the start, as each needs kernels of its own.
    `forward`: makes a step's logits [S, vocab], or None where the model's own forward does. `sample`: chooses the
    tokens. `precision`: what activations are rounded to, where that is not the model's dtype.
    """

    kv: PagedKV
    attention: PagedAttention
    asynchronous: bool = False
    capture: Capture | None = None
    tune: Callable[[], None] = field(default=lambda: None)
    layers: str = OWN_LAYERS
    memory: DeviceMemory | None = None
    warm_rows: Sequence[int] = ()
    forward: Forward | None = None
    sample: Sample = torch_sample
    precision: torch.dtype | None = None


MakeBackend = Callable[[PreTrainedModel, Limits, EngineSettings], Backend]


def plain_backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Nothing of ours but the pages: torch's attention over transformers' own layers. Every device has it."""
    kv = PagedKV(model.config, limits.pages, limits.page_size, model.dtype, model.device, transposed_keys=False)
    return Backend(
        kv, TorchPagedAttention(kv), asynchronous=model.device.type == "cuda", memory=device_memory(model.device)
    )


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Have torch compile the MLPs and norms at their first use; attention over pages is not for its eyes."""
    parts = ("MLP", "RMSNorm")
    for module in model.base_model.modules():
        if type(module).__name__.endswith(parts):
            module.compile(dynamic=True, backend=backend)
