"""Backends with one thing wrong on purpose, each as it would go wrong on a device."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import PagedAttention
from truss_model.engine.execution.backend import Backend, MakeBackend, plain_backend
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cpu.decoder import PackedDecoder
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.recording import Replay
from truss_model.engine.settings import EngineSettings

Change = Callable[[PreTrainedModel, Backend], Backend]


def changed(make: MakeBackend, change: Change) -> MakeBackend:
    """`make`, and then a change to what it made."""

    def made(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        return change(model, make(model, limits, settings))

    return made


class Around:
    """An attention that alters what another one gets or gives."""

    def __init__(self, inner: PagedAttention) -> None:
        self.inner = inner

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.inner(layer, query, key, value, batch, scaling, window, softcap, sinks)


class Adding(Around):
    def __call__(self, *arguments: Any) -> torch.Tensor:
        return self.inner(*arguments) + 0.01


class Raising(Around):
    def __call__(self, *arguments: Any) -> torch.Tensor:
        raise RuntimeError("ptxas fatal: unsupported instruction")


class NoWindow(Around):
    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: StepBatch,
                 scaling: float, window: int | None, *others: Any) -> torch.Tensor:  # fmt: skip
        return self.inner(layer, query, key, value, batch, scaling, None, *others)


class KeepsOneScratch(Around):
    """Makes a tensor for each size of a step, outside of any recording, and keeps that of the last size only."""

    def __init__(self, inner: PagedAttention) -> None:
        super().__init__(inner)
        self._scratch = torch.ones(0, 1, 1)

    def __call__(self, layer: int, query: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if len(self._scratch) != len(query):
            self._scratch = torch.ones(len(query), 1, 1)
        return self.inner(layer, query * self._scratch, *arguments)


class AddsBesideRecordedPrompts(Around):
    """Wrong only where a step has unused rows, which eager steps and recorded decode steps never have."""

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: StepBatch,
                 *others: Any) -> torch.Tensor:  # fmt: skip
        out = self.inner(layer, query, key, value, batch, *others)
        return out + 0.01 if bool((batch.contexts == 0).any()) else out


class RaisesBesideRecordedPrompts(Around):
    """Memory that is not there for steps with prompts in them, where they are recorded or tried for that."""

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: StepBatch,
                 *others: Any) -> torch.Tensor:  # fmt: skip
        if bool((batch.contexts == 0).any()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.inner(layer, query, key, value, batch, *others)


class FreeMemory:
    """A GPU's memory of which enough is free. `releases` is told when blocks are given back."""

    def __init__(self, releases: Callable[[], object] = lambda: None) -> None:
        self.release = releases

    def free(self) -> int:
        return 1 << 30

    def peak(self, work: Callable[[], object]) -> int:
        work()
        return 0


def attention(kind: type[Around]) -> Change:
    return lambda model, backend: dataclasses.replace(backend, attention=kind(backend.attention))


class AddingModule(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.inner(*arguments, **keywords) + 0.01


def fused_norm_adds(model: PreTrainedModel, backend: Backend) -> Backend:
    """In the replaced layers, where the kernels are."""
    (*_, last) = model.base_model.layers
    if isinstance(last, PackedDecoder):  # which ends with the norm
        run = last.run
        last.run = lambda *arguments: run(*arguments) + 0.01  # type: ignore[method-assign]
        return backend
    model.base_model.norm = AddingModule(model.base_model.norm)  # type: ignore[assignment]
    return backend


def layers_without_window(model: PreTrainedModel, backend: Backend) -> Backend:
    """The replaced layers never tell the kernels."""
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = None  # type: ignore[assignment]
    return backend


def recorded(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Plain torch with recordings, which begins a step before it has the tokens of the last one."""
    return dataclasses.replace(plain_backend(model, limits, settings), capture=record, asynchronous=True)


def recorder(capture: Callable[[Replay], Replay]) -> Change:
    return lambda model, backend: dataclasses.replace(backend, capture=capture)


def capture_raises(work: Replay) -> Replay:
    work()
    raise RuntimeError("operation not permitted when stream is capturing")


def record(work: Replay) -> Replay:
    """As a CUDA graph does: replays what it saw. A tensor that it read and nobody held is whatever lies there now."""
    work()
    with Reads() as reads:
        work()
    reads.forget()

    def replay() -> None:
        if reads.gone():
            with Garbage():
                work()
        else:
            work()

    return replay


class Reads(TorchDispatchMode):
    """The storages that operators read and did not make themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[int, StorageWeakRef] = {}
        self._made: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                self._read.setdefault(storage._cdata, StorageWeakRef(storage))
        out = function(*args, **(kwargs or {}))
        for tensor in tensors(out):
            if tensor.untyped_storage()._cdata not in self._read:
                self._made[tensor.untyped_storage()._cdata] = tensor
        return out

    def forget(self) -> None:
        self._made.clear()

    def gone(self) -> bool:
        return any(storage.expired() for storage in self._read.values())


class Garbage(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.mm.default, torch.ops.aten.mul.Tensor) and out.is_floating_point():
            return out * 1.5
        return out


def tensors(tree: object) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
