"""A Truss model whose forward costs nothing but a given time: prepared logits, real server, service and engine.

benchmarks.host copies this file into an image beside model.py and names it in config.yaml. It must also run in the
image of the commit before, so it uses only what both have.
"""

import inspect
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from truss_model import model as served
from truss_model.engine.engine import Engine
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.limits import Limits
from truss_model.engine.settings import EngineSettings
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.loading.demo import demo_folder
from truss_model.metrics import export
from truss_model.service import Service
from truss_model.settings import read_settings
from truss_model.tokenizer.chat_tokenizer import load_tokenizer

MOST_LOGITS = 1 << 23  # prepared for some steps, then again from the first
LATENESS_SAMPLES = 1 << 18


class NullBody(nn.Module):
    """Stands for embedding and layers."""

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        hidden = torch.zeros(1, input_ids.shape[1], 1)
        return SimpleNamespace(last_hidden_state=hidden, past_key_values=None, hidden_states=None, attentions=None)


class NullHead(nn.Module):
    """Waits as the host waits for a card, notes how late it woke up, and returns prepared logits [rows, vocab]."""

    def __init__(self, rows: int, vocab: int, seconds: float, lateness: Path) -> None:
        super().__init__()
        self._seconds = seconds
        self._counted = itertools.count(1)  # an attribute of a module is set slowly
        self._steps = max(1, MOST_LOGITS // (rows * vocab))
        self._logits = torch.randn(self._steps, rows, vocab, generator=torch.Generator().manual_seed(0))
        self._logits[:, :, :32] -= 100  # control tokens, that of the end among them
        self._noted = np.memmap(lateness, np.float64, "w+", shape=(1 + LATENESS_SAMPLES,))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        step = next(self._counted)
        due = time.monotonic() + self._seconds
        time.sleep(self._seconds)
        self._noted[1 + step % LATENESS_SAMPLES] = time.monotonic() - due
        self._noted[0] = step
        return self._logits[step % self._steps, : hidden.shape[-2]].view(*hidden.shape[:-1], -1)


def null_backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """HOST_STEP_MS: the time of a forward. HOST_VOCAB: the tokens it chooses from."""
    seconds, vocab = float(os.environ["HOST_STEP_MS"]) / 1e3, int(os.environ["HOST_VOCAB"])
    body: Any = model
    body.model = NullBody()
    body.lm_head = NullHead(limits.max_rows, vocab, seconds, Path(os.environ["HOST_LATENESS"]))
    kv = PagedKV(model.config, limits.pages, limits.page_size, torch.float32, torch.device("cpu"))
    return Backend(kv, TorchPagedAttention(kv), **kernel_sampling())


def kernel_sampling() -> dict[str, Any]:
    """The CPU's own sampling, where the commit has it: the plain torch form takes longer than that of any device."""
    try:
        from truss_model.engine.execution.cpu.build import kernels
        from truss_model.engine.execution.cpu.sampling import KernelSampling
    except ImportError:
        return {}
    library = kernels()
    return {} if library is None else {"sample": KernelSampling(library)}


def null_weights() -> PreTrainedModel:
    """Sizes that make the KV memory small."""
    config = MistralConfig(
        vocab_size=int(os.environ["HOST_VOCAB"]),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    return cast(PreTrainedModel, MistralForCausalLM(config))


def build_in_process(config: Mapping[str, Any], token: str | None) -> Service:
    """Before the engine had a process."""
    settings = read_settings(config, os.environ)
    tokenizer = load_tokenizer(demo_folder(None))
    engine = Engine(null_weights(), settings.engine, eos_token_ids=tokenizer.eos_token_ids, make_backend=null_backend)
    engine.start()
    export(engine.stats)
    return Service(engine, tokenizer, settings.serving, "null")


def build_engine(config: Mapping[str, Any], token: str | None, delivery: Any) -> Any:
    """In the engine's process."""
    from truss_model.built_engine import BuiltEngine

    settings = read_settings(config, os.environ)
    tokenizer = load_tokenizer(demo_folder(None))
    eos, wanted = tokenizer.eos_token_ids, replace(settings.engine, self_check=False)
    engine = Engine(null_weights(), wanted, eos_token_ids=eos, make_backend=null_backend, delivery=delivery)
    engine.start()
    return BuiltEngine(engine, GrammarCompiler(tokenizer), demo_folder(None), "null")


def build(config: Mapping[str, Any], token: str | None) -> Service:
    from truss_model import startup

    if "module" not in inspect.signature(startup.build_service).parameters:
        return build_in_process(config, token)
    return startup.build_service(config, token, "truss_model.null_model")


class Model(served.Model):
    """What Truss loads in the place of the real one."""

    def __init__(
        self, config: Mapping[str, Any], secrets: Mapping[str, str], environment: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, secrets, environment, build)


if __name__ == "__main__":
    from truss_model import worker

    worker.main(build_engine)
