"""What the self-check finds beyond wrong kernels, and that it leaves a model as it was."""

import dataclasses

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.conftest import make_model
from tests.engine.execution.faulty_backends import changed, recorded, recorder
from tests.engine.execution.test_ladder import widely_windowed
from tests.engine.families import FAMILIES
from truss_model.engine.execution.backend import MakeBackend
from truss_model.engine.execution.limits import limits
from truss_model.engine.execution.model_runner import ModelRunner, RunningStep
from truss_model.engine.execution.narrow_window import narrowed
from truss_model.engine.execution.recording import Replay
from truss_model.engine.execution.reference import Reference, text_size, windows_to_check
from truss_model.engine.execution.self_check import Mismatch, SelfCheck
from truss_model.engine.scheduling.scheduler import StepPlan
from truss_model.engine.settings import EngineSettings

SETTINGS = EngineSettings(kv_cache_bytes=8 << 20, max_rows=3)


class TakesOthersTokens(ModelRunner):
    """A step that begins before the last one's tokens are read begins with those of other rows."""

    def launch(self, plan: StepPlan, before: RunningStep | None = None) -> RunningStep:
        if before is not None:
            before = dataclasses.replace(before, sampling=before.sampling[1:] + before.sampling[:1])
        return super().launch(plan, before)


def start(
    kind: type[ModelRunner], settings: EngineSettings, make: MakeBackend = recorded
) -> tuple[ModelRunner, SelfCheck]:
    model = make_model()
    chosen = limits(model, settings)
    reference = Reference.of(model, chosen)
    runner = kind(model, chosen, frozenset(), settings, make)
    runner.warm_up()
    return runner, SelfCheck(runner, reference)


@pytest.mark.parametrize("length", [None, 40, 300])
def test_steps_that_are_launched_ahead_are_part_of_it(length: int | None) -> None:
    settings = dataclasses.replace(SETTINGS, max_model_len=length)
    runner, check = start(ModelRunner, settings)
    check.check_eager()
    runner.record()
    check.check_recordings()
    runner, check = start(TakesOthersTokens, settings)
    with pytest.raises(Mismatch, match="launched before the last one's tokens are read"):
        check.check_eager()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_of_this_machine_pass_it_in_their_precision(dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    chosen = limits(model, SETTINGS)
    reference = Reference.of(model, chosen)
    runner = ModelRunner(model, chosen, frozenset(), SETTINGS)
    check = SelfCheck(runner, reference)
    check.check_eager()
    assert runner.layers == "fused"
    assert (check.gap < 1e-3) or runner.precision == dtype == torch.bfloat16


@pytest.mark.parametrize("settings", [{"kv_cache_bytes": 90_000}, {"max_model_len": 2}, {"max_model_len": 12}])
def test_rows_that_share_their_pages_or_have_hardly_any_pass_it(settings: dict[str, int]) -> None:
    runner, check = start(ModelRunner, dataclasses.replace(SETTINGS, **settings))
    check.check_eager()
    runner.record()
    check.check_recordings()


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_rows": 1, "token_budget": 150}, {"max_rows": 2}, {"max_rows": 10}, {"max_rows": 40, "token_budget": 700},
     {"max_model_len": 12}, {"max_model_len": 2}, {"kv_cache_bytes": 90_000}, {"token_budget": 50}],
    ids=str,
)  # fmt: skip
def test_every_recording_is_checked(settings: dict[str, int]) -> None:
    made, replayed = list[int](), set[int]()

    def counting(work: Replay) -> Replay:
        work()
        number = len(made)
        made.append(number)

        def replay() -> None:
            replayed.add(number)
            work()

        return replay

    chosen = dataclasses.replace(SETTINGS, **settings)
    make = changed(recorded, recorder(counting))
    runner, check = start(ModelRunner, chosen, make)
    check.check_eager()
    runner.record()
    assert not replayed
    check.check_recordings()
    assert replayed == {*made}


@pytest.mark.parametrize("family", ["mistral, window", "gemma2", "gemma3_text", "gpt_oss", "phi3, window", "cohere2"])
def test_a_window_is_narrow_only_while_it_is_checked(family: str) -> None:
    """Its layers that slide, however the family says so, and no other ones."""
    model = FAMILIES[family].make()
    tokens = torch.arange(3, 63)[None]

    def logits(model: PreTrainedModel) -> torch.Tensor:
        with torch.inference_mode():
            return model(tokens, use_cache=False).logits

    as_it_is = logits(model)
    with narrowed(model, 12):
        narrow = logits(model)
    config = type(model.config)(**{**model.config.to_dict(), "sliding_window": 12})
    made_narrow: PreTrainedModel = type(model)(config).eval()
    made_narrow.load_state_dict(model.state_dict())
    torch.testing.assert_close(narrow, logits(made_narrow))
    assert not torch.equal(narrow, as_it_is)
    assert torch.equal(logits(model), as_it_is)


def test_a_window_that_the_text_crosses_or_no_request_can_is_checked_as_it_is() -> None:
    for model, settings, windows in (
        (make_model(), SETTINGS, [None]),
        (make_model(32), SETTINGS, [None]),
        (widely_windowed(), SETTINGS, [50, None]),
        (widely_windowed(), dataclasses.replace(SETTINGS, max_model_len=900), [None]),
    ):
        chosen = limits(model, settings)
        assert windows_to_check(model, chosen) == windows
        assert text_size(model, chosen) >= 160
