"""Sampling kernels that go wrong on a device, each in one way: torch_sample stays, and all other kernels with it."""

import dataclasses
import gc
import logging
import weakref
from collections.abc import Callable

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from truss_model.engine.execution.backend import Backend
from truss_model.engine.execution.cuda.attention import GpuProperties
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.cuda.sampling_check import CheckedSampling
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.execution.sampling import Choice, Sample, torch_sample
from truss_model.engine.execution.sampling_state import Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields
from truss_model.engine.settings import EngineSettings

# Triton's interpreter under numpy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning"),
]

VOCAB = 64
CARD = GpuProperties(processors=4, large_shared_memory=False)
LIMITS = Limits(max_model_len=64, max_rows=2, token_budget=16, long_prefill=64, page_size=16, pages=8)
Fault = Callable[[Kind, Choice, SamplingState], object]


def kernels(fault: Fault) -> Sample:
    """torch_sample and a fault."""

    def sample(kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        choice = torch_sample(kind, logits, state, fields)
        fault(kind, choice, state)
        return choice

    return sample


def checked(sample: Sample) -> CheckedSampling:
    made = CheckedSampling(sample, VOCAB, torch.bfloat16, torch.device("cpu"))
    made.check()
    return made


def raises(kind: Kind, choice: Choice, state: SamplingState) -> None:
    raise RuntimeError("ptxas fatal: unsupported instruction\nand where")


def one_token_off(kind: Kind, choice: Choice, state: SamplingState) -> None:
    if kind is Kind.ALL:
        choice.tokens[10] = (choice.tokens[10] + 1) % VOCAB


def draws_off(kind: Kind, choice: Choice, state: SamplingState) -> None:
    if kind is Kind.DRAW:
        choice.tokens[2] = (choice.tokens[2] + 1) % VOCAB


def counts_off(kind: Kind, choice: Choice, state: SamplingState) -> None:
    state.counts[0, 5] += kind is Kind.ALL


def logprobs_off(kind: Kind, choice: Choice, state: SamplingState) -> None:
    if choice.own is not None:
        choice.own[5] += 0.1


def alternatives_off(kind: Kind, choice: Choice, state: SamplingState) -> None:
    if choice.ids is not None:
        choice.ids[5] = choice.ids[5].flip(0)


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (raises, "RuntimeError: ptxas fatal: unsupported instruction."),
    "tokens": (one_token_off, "1 of 18 rows get other tokens"),
    "draws": (draws_off, "1 of 4 rows get other tokens"),
    "counts": (counts_off, "counted otherwise"),
    "logprobs": (logprobs_off, "other log-probabilities"),
    "alternatives": (alternatives_off, "other log-probabilities"),
}


@pytest.mark.parametrize("fault", FAULTS)
@torch.inference_mode()
def test_kernels_that_do_otherwise_are_not_used(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong, told = FAULTS[fault]
    made = checked(kernels(wrong))
    assert made.sample is torch_sample
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith("Sampling by plain torch, as its kernels fail: ")
    assert told in record.getMessage()


@torch.inference_mode()
def test_a_fault_that_ends_the_use_of_the_gpu_is_raised() -> None:
    def poisoned(kind: Kind, choice: Choice, state: SamplingState) -> None:
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        checked(kernels(poisoned))


def model() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@torch.inference_mode()
def test_the_kernels_are_used_once_tuning_has_seen_that_they_do_the_same() -> None:
    backend = cuda_backend(model(), LIMITS, EngineSettings(), CARD)
    assert isinstance(backend.sample, CheckedSampling)
    assert backend.sample.sample is torch_sample
    backend.tune()
    assert isinstance(backend.sample.sample, TritonSampling)


def test_the_memory_of_a_step_is_measured_with_the_sampling_that_is_used_after() -> None:
    seen: list[tuple[Kind, int]] = []

    def sample(kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields) -> Choice:
        seen.append((kind, len(logits)))
        return torch_sample(kind, logits, state, fields)

    def backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        checked = CheckedSampling(sample, VOCAB, torch.float32, torch.device("cpu"))

        def tune() -> None:
            checked.check()
            seen.clear()

        return dataclasses.replace(
            cuda_backend(model, limits, settings, CARD), sample=checked, tune=tune, warm_rows=(), capture=None
        )

    ModelRunner(model(), LIMITS, frozenset(), EngineSettings(), backend).warm_up()
    assert seen == [(Kind.ALL, 2)]


def test_kernels_that_raise_leave_no_memory_behind() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def raising(kind: Kind, choice: Choice, state: SamplingState) -> None:
        held.append(weakref.ref(state.counts))
        raises(kind, choice, state)

    gc.disable()
    logging.disable(logging.WARNING)  # pytest keeps every record, and with it the error's frames
    try:
        checked(kernels(raising))
        assert [reference() for reference in held] == [None]
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
