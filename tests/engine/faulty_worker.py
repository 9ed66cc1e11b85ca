"""The real engine's process over a tiny model, on which the token FATAL has the effect of a fault of the GPU.

It is a fault of recorded steps with prompts, which only the first rung has: on the next one the token does nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.engine.conftest import make_model
from tests.engine.execution.faulty_backends import recorded
from truss_model import worker
from truss_model.built_engine import BuiltEngine
from truss_model.engine.engine import Engine
from truss_model.engine.execution.attention import running_batch
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.fault_record import FaultRecord
from truss_model.engine.execution.ladder import StartOptions
from truss_model.engine.execution.limits import Limits
from truss_model.engine.pipe_delivery import PipeDelivery
from truss_model.engine.settings import EngineSettings

FATAL = 1000
SETTINGS = EngineSettings(kv_cache_bytes=32 << 20, max_rows=4)


def backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    def fail(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if bool((inputs[0] == FATAL).any()) and bool((running_batch().contexts == 0).any()):
            raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    model.get_input_embeddings().register_forward_pre_hook(fail)
    return recorded(model, limits, settings)


def build(config: Mapping[str, Any], token: str | None, delivery: PipeDelivery) -> BuiltEngine:
    model, folder = make_model(), Path(config["folder"])
    options = StartOptions(reload=make_model, text=list(range(3, 60)), record=FaultRecord(folder, model, "a card"))
    engine = Engine(
        model, SETTINGS, eos_token_ids=frozenset(), make_backend=backend, options=options, delivery=delivery
    )
    engine.start()
    grammars: Any = None  # no request has one
    return BuiltEngine(engine, grammars, folder, "faulty")


if __name__ == "__main__":
    worker.main(build)
