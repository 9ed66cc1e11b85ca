"""A step on a device: nothing in it waits for the device, whatever its rows ask for."""

import dataclasses
import traceback
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from tests.engine.conftest import make_model
from tests.engine.execution.faulty_backends import record
from tests.engine.execution.sampling_step import SamplingStep
from truss_model.engine.execution.backend import Backend, plain_backend
from truss_model.engine.execution.batch import to_device
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner, RunningStep
from truss_model.engine.execution.prompt_scores import PendingScores
from truss_model.engine.execution.recording import Replay
from truss_model.engine.execution.step_fields import upload
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import PENDING, Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

ROWS = 64
UPLOADS = {to_device.__code__, upload.__code__}
LIMITS = Limits(max_model_len=64, max_rows=ROWS, token_budget=256, long_prefill=256, page_size=16, pages=4 * ROWS)
EVERYTHING = SamplingParams(
    top_p=0.9, top_k=50, min_p=0.01, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.2,
    logit_bias={3: 2.0}, min_tokens=4, seed=1, top_logprobs=20,
)  # fmt: skip


class HostRead(AssertionError):
    """An operation that needs a number of the device on the host, or sends one there and waits."""


class NoHostReads(TorchDispatchMode):
    """Raises for what stops the host on a GPU: numbers read, tensors of unknown size, tensors made of the host's."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__.strip("_")
        indexed = name.startswith("index") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:])
        )
        # In some versions of torch it reads the largest index.
        accumulates = name.startswith("index_put") and len(args) > 3 and args[3]
        if indexed or accumulates or any(name.startswith(read.strip("_")) for read in self.READS):
            raise HostRead(str(function))
        if name == "lift_fresh" and not UPLOADS & {frame.f_code for frame, _ in traceback.walk_stack(None)}:
            raise HostRead("a tensor made of numbers of the host, outside of what uploads by page-locked memory")
        return function(*args, **(kwargs or {}))


def no_attention(layer: int, query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Plain torch's attention asks the device for lengths; the kernels do not, and are not what is looked at here."""
    return query


class Even:
    def fill(self, words: npt.NDArray[np.int32]) -> None:
        words[:] = np.int32(0x55555555)

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 0


def made_rows(constrained: int) -> list[Row]:
    rows = []
    for i in range(ROWS):
        row = Row(Generation(3, 1, lambda *_: None), 0, [i, 7, 9], 3, EVERYTHING, 0, pages=[i])
        row.constraint = Even() if i < constrained else None
        rows.append(row)
    return rows


def next_step(runner: ModelRunner, rows: list[Row], prompts: list[Row], before: RunningStep | None) -> RunningStep:
    decoding = [Chunk(row, len(row.tokens) - 1, 1, samples=True) for row in rows]
    return runner.launch(StepPlan(decoding + [Chunk(row, 0, 40, samples=False) for row in prompts]), before)


@pytest.mark.parametrize("prompts", [0, 2], ids=["rows decode", "beside prompts"])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "eager"])
def test_no_step_reads_the_device_or_waits_for_an_upload(recorded: bool, prompts: int) -> None:
    replays = list[int]()

    def count(work: Replay) -> Replay:
        replay = record(work)

        def counted() -> None:
            replays.append(1)
            replay()

        return counted

    def backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        plain = plain_backend(model, limits, settings)
        return dataclasses.replace(plain, attention=no_attention, asynchronous=True, capture=count)

    runner = ModelRunner(make_model(), LIMITS, frozenset({2}), EngineSettings(cuda_graphs=recorded), backend)
    runner.record()
    rows, step = made_rows(constrained=16)[prompts:], None
    for _ in range(3):
        long = [
            Row(Generation(40, 1, lambda *_: None), 0, [5] * 40, 40, EVERYTHING, 0, pages=[0, 1, 2])
            for _ in range(prompts)
        ]
        with NoHostReads():
            step = next_step(runner, rows, long, step)
        tokens = step.result().tokens
        # A row without a grammar goes on before the host knows its token.
        for row, token in zip(rows, tokens, strict=True):
            row.tokens.append(PENDING if row.constraint is None else token)
            assert row.constraint is None or token % 2 == 0
    assert len(replays) == (2 * 3 if recorded else 0)  # a forward and a sampling each


def test_sampling_by_the_kernels_reads_nothing_either() -> None:
    step = SamplingStep(frozenset({2}), 70, sample=TritonSampling(at_once=140, block=32))
    rows = made_rows(constrained=1)[:3]
    with NoHostReads():
        made = step(torch.randn(3, 70), rows)
    assert made.tokens[0] % 2 == 0


def test_scores_of_prompts_wait_for_no_upload() -> None:
    params = SamplingParams(prompt_logprobs=1)
    row = Row(Generation(3, 1, lambda *_: None), 0, [5, 7, 9], 3, params, 0, pages=[0])
    logits = torch.randn(2, 16)
    with NoHostReads():
        pending = PendingScores(logits, [Chunk(row, 0, 3, samples=True)])
    ((_, scores),) = pending.result()
    expected = logits.log_softmax(-1)[[0, 1], [7, 9]].tolist()
    assert [score.logprob for score in scores] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).all()),
        lambda x: x + torch.tensor([1.0]),
        lambda x: x.index_put_((torch.arange(3),), x, accumulate=True),
    ],
)
def test_reads_are_seen(read: Any) -> None:
    with pytest.raises(HostRead), NoHostReads():
        read(torch.ones(3))
