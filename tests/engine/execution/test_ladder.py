"""What computes other numbers than the untouched model is found at the start, and the next way to run it serves."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from weakref import WeakSet

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.engine.conftest import SMALL, greedy, make_model, reference
from tests.engine.execution import faulty_backends as faulty
from tests.engine.execution.faulty_backends import recorded
from truss_model.engine.engine import Engine
from truss_model.engine.execution.backend import Backend, MakeBackend, plain_backend
from truss_model.engine.execution.cpu.backend import cpu_backend
from truss_model.engine.execution.cuda.attention import GpuProperties
from truss_model.engine.execution.cuda.backend import cuda_backend
from truss_model.engine.execution.fault_record import FaultRecord
from truss_model.engine.execution.ladder import Ladder, StartOptions
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.recording import Replay
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

PROMPT = list(range(3, 60))
SETTINGS = EngineSettings(kv_cache_bytes=8 << 20, max_rows=3)
FEW = dataclasses.replace(
    SETTINGS, max_model_len=64, max_rows=2, token_budget=16
)  # the interpreter takes a millisecond a program

WIDE = dataclasses.replace(SETTINGS, max_model_len=1200, max_rows=2)


def windowed() -> PreTrainedModel:
    return make_model(32)


def widely_windowed() -> PreTrainedModel:
    """Its window is wider than the text of the check."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MistralConfig(**{**SMALL, "max_position_embeddings": 2048}, sliding_window=1000)
        return MistralForCausalLM(config).eval()


def qwen() -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()


def on_gpu_path(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """The kernels in Triton's interpreter, and recordings as a CUDA graph makes them."""
    card = GpuProperties(processors=4, large_shared_memory=False)
    return dataclasses.replace(cuda_backend(model, limits, settings, card), capture=faulty.record, tune=lambda: None)


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.stop()


ALL, DECODES, EAGER, PLAIN = "all kernels", "decode recordings alone", "no recordings", "plain torch"
WRONG = {
    "C: an attention that adds 0.01": (qwen, cpu_backend, faulty.attention(faulty.Adding), SETTINGS, [PLAIN]),
    "C: a fused norm that adds 0.01": (windowed, cpu_backend, faulty.fused_norm_adds, SETTINGS, [PLAIN]),
    "C: an attention that raises": (qwen, cpu_backend, faulty.attention(faulty.Raising), SETTINGS, [PLAIN]),
    "torch: a twin without the window": (
        windowed, plain_backend, faulty.attention(faulty.NoWindow), SETTINGS, [PLAIN],
    ),
    "torch: a twin without a wide window": (
        widely_windowed, plain_backend, faulty.attention(faulty.NoWindow), SETTINGS, [PLAIN],
    ),
    "C: layers without a wide window": (widely_windowed, cpu_backend, faulty.layers_without_window, SETTINGS, [PLAIN]),
    "Triton: layers without a wide window": (
        widely_windowed, on_gpu_path, faulty.layers_without_window, WIDE, [PLAIN],
    ),
    "torch: a capture that raises": (
        qwen, recorded, faulty.recorder(faulty.capture_raises), SETTINGS, [DECODES, EAGER],
    ),
    "torch: recordings of freed tensors": (
        qwen, recorded, faulty.attention(faulty.KeepsOneScratch), SETTINGS, [DECODES, EAGER],
    ),
    "torch: recordings of prompts that add 0.01": (
        qwen, recorded, faulty.attention(faulty.AddsBesideRecordedPrompts), SETTINGS, [DECODES],
    ),
    "torch: recordings of prompts that raise": (
        qwen, recorded, faulty.attention(faulty.RaisesBesideRecordedPrompts), SETTINGS, [DECODES],
    ),
    "torch: an attention that adds 0.01, recorded": (
        qwen, recorded, faulty.attention(faulty.Adding), SETTINGS, [PLAIN],
    ),
    "Triton: an attention that adds 0.01": (qwen, on_gpu_path, faulty.attention(faulty.Adding), FEW, [PLAIN]),
    "Triton: a fused norm that adds 0.01": (make_model, on_gpu_path, faulty.fused_norm_adds, FEW, [PLAIN]),
    "Triton: a capture that raises": (
        make_model, on_gpu_path, faulty.recorder(faulty.capture_raises), FEW, [DECODES, EAGER],
    ),
    "Triton: recordings of prompts that raise": (
        qwen, on_gpu_path, faulty.attention(faulty.RaisesBesideRecordedPrompts), FEW, [DECODES],
    ),
    "Triton: an attention that raises": (qwen, on_gpu_path, faulty.attention(faulty.Raising), FEW, [PLAIN]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_the_next_rung_serves(engines: list[Engine], caplog: pytest.LogCaptureFixture, name: str) -> None:
    make_plain, make, change, settings, rungs = WRONG[name]
    caplog.set_level(logging.INFO)
    options = StartOptions(reload=make_plain)
    engine = Engine(
        make_plain(), settings, eos_token_ids=frozenset(), make_backend=faulty.changed(make, change), options=options
    )
    engine.start()
    engines.append(engine)
    attempts = engine.ladder.attempts
    assert [attempt.rung for attempt in attempts] == [ALL, *rungs]
    assert [attempt.outcome == "serves" for attempt in attempts] == [False, *(rung == rungs[-1] for rung in rungs)]
    assert attempts[0].detail and attempts[0].detail in caplog.records[-1].message
    assert caplog.records[-1].message.startswith(f"Serving by '{rungs[-1]}'")
    prompt = PROMPT[: settings.max_model_len or 999][:50]
    assert await greedy(engine, prompt, 8) == reference(make_plain(), prompt, 8)


@pytest.mark.parametrize("fault", [faulty.AddsBesideRecordedPrompts, faulty.RaisesBesideRecordedPrompts])
@pytest.mark.parametrize("remembered", [None, DECODES, EAGER])
def test_each_rung_records_what_its_name_says(
    tmp_path_factory: pytest.TempPathFactory, fault: type[faulty.Around], remembered: str | None
) -> None:
    model = qwen()
    record = FaultRecord(tmp_path_factory.mktemp("cache"), model, "a card")
    if remembered is not None:
        record.remember(remembered, RuntimeError("CUDA error: an illegal memory access was encountered"))
    make = faulty.changed(recorded, faulty.attention(fault))
    ladder = Ladder(model, SETTINGS, frozenset(), make, StartOptions(record=record))
    runner = ladder.climb()
    assert [attempt.rung for attempt in ladder.attempts] == ([remembered] if remembered else [ALL, DECODES])
    assert runner.recorded_shapes == []
    assert runner.recorded_sizes == ([] if remembered == EAGER else [1, 2, 3])


def test_what_fails_while_memory_is_measured_costs_no_more_than_a_capture_that_fails(engines: list[Engine]) -> None:
    settings = EngineSettings(max_rows=3)
    make = faulty.changed(with_memory(faulty.FreeMemory()), faulty.attention(faulty.RaisesBesideRecordedPrompts))
    engine = Engine(qwen(), settings, eos_token_ids=frozenset(), make_backend=make)
    engine.start()
    engines.append(engine)
    assert [attempt.rung for attempt in engine.ladder.attempts] == [ALL, DECODES]


def test_recordings_that_are_dropped_are_gone_when_others_are_made(engines: list[Engine]) -> None:
    works, kept = WeakSet[Callable[[], object]](), list[int]()

    def capture(work: Replay) -> Replay:
        works.add(work)
        return faulty.record(work)

    memory = faulty.FreeMemory(lambda: kept.append(len(works)))
    make = faulty.changed(with_memory(memory), faulty.recorder(capture))
    make = faulty.changed(make, faulty.attention(faulty.AddsBesideRecordedPrompts))
    engine = Engine(qwen(), SETTINGS, eos_token_ids=frozenset(), make_backend=make)
    engine.start()
    engines.append(engine)
    assert [attempt.rung for attempt in engine.ladder.attempts] == [ALL, DECODES]
    assert kept == [0]
    assert works


def with_memory(memory: faulty.FreeMemory) -> MakeBackend:
    return faulty.changed(recorded, lambda model, backend: dataclasses.replace(backend, memory=memory))


@pytest.mark.parametrize(
    ("make_plain", "make"), [(windowed, cpu_backend), (qwen, recorded)], ids=["C kernels", "recordings"]
)
def test_what_is_right_serves_at_once(engines: list[Engine], make_plain: object, make: MakeBackend) -> None:
    engine = Engine(make_plain(), SETTINGS, eos_token_ids=frozenset(), make_backend=make)  # type: ignore[operator]
    engine.start()
    engines.append(engine)
    (attempt,) = engine.ladder.attempts
    assert (attempt.rung, attempt.outcome) == (ALL, "serves")
    assert attempt.gap is not None and attempt.gap < 1e-4


def broken() -> PreTrainedModel:
    """Its weights change after the reference is computed: no way to run it gives the same numbers."""
    model = qwen()

    def drift(module: torch.nn.Module, inputs: object, output: object) -> None:
        model.lm_head.weight.data.mul_(1.5)

    model.lm_head.register_forward_hook(drift)
    return model


def test_a_model_that_no_rung_serves_is_refused(engines: list[Engine]) -> None:
    engine = Engine(broken(), SETTINGS, eos_token_ids=frozenset(), options=StartOptions(reload=broken))
    with pytest.raises(LoadError, match=r"family qwen2: log-probabilities differ by .* in a prompt in chunks"):
        engine.start()
    assert [attempt.outcome for attempt in engine.ladder.attempts] == ["off", "off"]


def test_a_model_that_nothing_loads_again_is_refused_with_the_first_fault() -> None:
    make = faulty.changed(cpu_backend, faulty.fused_norm_adds)
    with pytest.raises(LoadError) as refusal:
        Engine(windowed(), SETTINGS, eos_token_ids=frozenset(), make_backend=make).start()
    assert refusal.value.message.startswith("The engine's kernels failed (log-probabilities differ by ")
    assert refusal.value.message.endswith("is rounding)), and nothing loads the model again.")


def test_a_model_whose_numbers_its_type_cannot_hold_is_refused() -> None:
    model = qwen()
    model.lm_head.weight.data.fill_(float("inf"))
    with pytest.raises(LoadError) as refusal:
        Engine(model, SETTINGS, eos_token_ids=frozenset()).start()
    assert refusal.value.message == (
        "This model of the family qwen2 computes no numbers in torch.float32. Set model_metadata.model.dtype to "
        "bfloat16 or float32."
    )


def test_the_check_can_be_switched_off(engines: list[Engine]) -> None:
    settings = dataclasses.replace(SETTINGS, self_check=False)
    engine = Engine(broken(), settings, eos_token_ids=frozenset())
    engine.start()
    engines.append(engine)
    assert [(attempt.outcome, attempt.gap) for attempt in engine.ladder.attempts] == [("serves", None)]


class Poisoned(torch.AcceleratorError):  # type: ignore[misc]
    """What torch raises for an illegal memory access; it cannot be made without a GPU."""


@pytest.mark.parametrize("at_start", [True, False], ids=["at the start", "in a step"])
def test_a_fault_that_ends_the_process_is_remembered_by_the_next(
    engines: list[Engine], tmp_path_factory: pytest.TempPathFactory, at_start: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    fault = Poisoned("CUDA error: an illegal memory access was encountered")

    def poisoned(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
        raise fault

    def start(make: MakeBackend) -> Engine:
        model = qwen()
        options = StartOptions(reload=qwen, record=FaultRecord(folder, model, "a card"))
        engine = Engine(model, SETTINGS, eos_token_ids=frozenset(), make_backend=make, options=options)
        engine.start()
        engines.append(engine)
        return engine

    if at_start:
        with pytest.raises(LoadError, match=r"A fault of the GPU ended this process .* decode recordings alone"):
            start(poisoned)
        with pytest.raises(LoadError, match=r"The next one starts with less: no recordings"):
            start(poisoned)
        with pytest.raises(LoadError, match=r"The next one starts with less: plain torch"):
            start(poisoned)
    else:
        start(recorded).ladder.remember(fault)
        for rung in (DECODES, EAGER):
            assert [attempt.rung for attempt in start(recorded).ladder.attempts] == [rung]
            engines[-1].ladder.remember(fault)
    assert [attempt.rung for attempt in start(poisoned).ladder.attempts] == [PLAIN]
