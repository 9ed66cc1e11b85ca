"""What is run when the engine starts."""

from typing import Any

import torch
from transformers import PreTrainedModel

from tests.engine.conftest import make_model
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.settings import EngineSettings

LIMITS = Limits(max_model_len=64, max_rows=8, token_budget=16, long_prefill=64, page_size=16, pages=8)


class NotedAttention(TorchPagedAttention):
    """Notes how many rows decode in each step."""

    def __init__(self, kv: PagedKV) -> None:
        super().__init__(kv)
        self.decodes: set[int] = set()

    def __call__(self, layer: int, query: torch.Tensor, *rest: Any) -> torch.Tensor:
        batch = rest[2]
        self.decodes.add(batch.decodes)
        return super().__call__(layer, query, *rest)


def test_every_number_of_rows_that_needs_kernels_of_its_own_is_run() -> None:
    made: list[NotedAttention] = []

    def backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        kv = PagedKV(model.config, limits.pages, limits.page_size, model.dtype, model.device)
        made.append(NotedAttention(kv))
        return Backend(kv, made[0], warm_rows=(3, 5))

    ModelRunner(make_model(), LIMITS, frozenset(), EngineSettings(), backend).warm_up()
    assert made[0].decodes == {1, 3, 5}
