"""The ways to run a model, fastest first, and the first that computes what the untouched model computes.

A rung whose numbers are off, or that raises, gives way to the next; the last one's fault is a LoadError.
"""

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from truss_model.engine.execution.backend import OWN_LAYERS, MakeBackend, plain_backend
from truss_model.engine.execution.fault_record import FaultRecord, poisons
from truss_model.engine.execution.limits import Limits, limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.execution.model_support import check_positions, check_support, family
from truss_model.engine.execution.reference import Reference, windows_to_check
from truss_model.engine.execution.self_check import Mismatch, SelfCheck
from truss_model.engine.settings import EngineSettings
from truss_model.engine.stats import Attempt
from truss_model.errors import GpuLost, LoadError

logger = logging.getLogger(__name__)

KERNELS, DECODES, EAGER, PLAIN = RUNGS = ("all kernels", "decode recordings alone", "no recordings", "plain torch")
Reload = Callable[[], PreTrainedModel]


@dataclass(frozen=True, slots=True)
class StartOptions:
    """reload: loads the same weights again. text: token ids for the self-check; made up if there are none.

    A copy of the layers would hold the weights twice at every good start; reading them again costs its time only when a
    rung has failed. record: where a fault that ends the process is remembered.
    """

    reload: Reload | None = None
    text: Sequence[int] = ()
    record: FaultRecord | None = None


class Ladder:
    """One model on its way to a runner. `model` is replaced when its layers must be transformers' own again."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: EngineSettings,
        eos: frozenset[int],
        make: MakeBackend,
        options: StartOptions,
    ) -> None:
        """Raises LoadError for a model that the engine cannot serve."""
        check_support(model)
        self.model = model
        self.limits: Limits = fitting_limits(model, settings)
        check_positions(model, self.limits.max_model_len)
        self.attempts: list[Attempt] = []
        self._settings = settings
        self._eos = eos
        self._make = make
        self._options = options
        self._replaced = False  # whether the layers are still transformers' own
        self._threads = torch.get_num_threads()  # kernels leave torch with one
        self._rung = KERNELS

    def climb(self) -> ModelRunner:
        """The runner of the first rung that holds. Raises LoadError, and torch.OutOfMemoryError on the last rung."""
        if self._settings.cuda_kernels == "off" and self.model.device.type == "cuda":
            self._rung = PLAIN
        elif self._options.record is not None:
            self._rung = self._options.record.rung() or KERNELS
        references = self._references() if self._settings.self_check else []
        runner: ModelRunner | None = None
        while True:
            began, checks, eager = time.monotonic(), list[SelfCheck](), False
            try:
                if runner is None:
                    runner = self._make_runner()
                else:
                    self._drop_recordings(runner)
                for reference in references:
                    checks.append(SelfCheck(runner, reference))
                    checks[-1].check_eager()
                eager = True
                runner.record()
                for check in checks[-1:]:
                    check.check_recordings()
            except Exception as error:
                self._note(error, None, began)
                runner = self._next(error, runner if eager and runner is not None and runner.recording else None)
                continue
            self._note(None, max((check.gap for check in checks), default=None), began)
            self._report(runner, checks)
            return runner

    def remember(self, error: BaseException) -> None:
        """Where a fault ends the process's use of its GPU: the next process begins one rung lower."""
        if self._options.record is not None and poisons(error) and self._rung != PLAIN:
            self._options.record.remember(_below(self._rung), error)

    def _references(self) -> list[Reference]:
        """The last one is of the model as it is."""
        windows = windows_to_check(self.model, self.limits)
        try:
            found = [Reference.of(self.model, self.limits, self._options.text, window=window) for window in windows]
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise LoadError(
                f"transformers' own forward of a model of the family {family(self.model)} fails: {_first_line(error)}."
            ) from error
        if not all(reference.logprobs.amax(-1).isfinite().all() for reference in found):
            raise LoadError(
                f"This model of the family {family(self.model)} computes no numbers in {self.model.dtype}. Set "
                "model_metadata.model.dtype to bfloat16 or float32."
            )
        return found

    def _make_runner(self) -> ModelRunner:
        make = self._make
        if self._rung == PLAIN:
            make = plain_backend
            torch.set_num_threads(self._threads)
            if self._replaced:
                self._load_again()
            gc.collect()  # the pages of a rung before
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._replaced = make is not plain_backend
        runner = ModelRunner(self.model, self.limits, self._eos, self._settings, make)
        self._replaced = runner.layers != OWN_LAYERS
        self._drop_recordings(runner)
        runner.warm_up()
        return runner

    def _drop_recordings(self, runner: ModelRunner) -> None:
        """Those that this rung does without."""
        if self._rung != KERNELS:
            runner.drop_recordings(keep_decode=self._rung == DECODES)

    def _next(self, error: Exception, runner: ModelRunner | None) -> ModelRunner | None:
        """Go one rung down, or to the last if recordings are not the fault. runner: one that can go on with fewer."""
        if poisons(error) and self._rung != PLAIN:
            self.remember(error)
            raise GpuLost(
                f"A fault of the GPU ended this process ({_first_line(error)}). The next one starts with less: "
                f"{_below(self._rung)}."
            ) from error
        if self._rung == PLAIN:
            if isinstance(error, torch.OutOfMemoryError | LoadError):
                raise error
            raise LoadError(
                f"The engine cannot serve this model of the family {family(self.model)}: "
                f"{_first_line(error)}. transformers' own forward is what it is compared with."
            ) from error
        self._rung = _below(self._rung) if runner is not None else PLAIN
        return runner

    def _load_again(self) -> None:
        """Give the memory back first: two copies would not fit."""
        if self._options.reload is None:
            raise LoadError(
                f"The engine's kernels failed ({self.attempts[-1].detail}), and nothing loads the model again."
            )
        for name in [name for name, _ in self.model.named_children()]:
            delattr(self.model, name)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.model = self._options.reload()
        self._replaced = False

    def _note(self, error: Exception | None, gap: float | None, began: float) -> None:
        outcome = "serves" if error is None else "off" if isinstance(error, Mismatch) else "failed"
        gap = error.gap if isinstance(error, Mismatch) else gap
        detail = _first_line(error) if error is not None else ""
        self.attempts.append(Attempt(self._rung, outcome, gap, detail, time.monotonic() - began))
        if error is not None:
            trace = None if isinstance(error, Mismatch) else error
            logger.warning("'%s' is %s: %s.", self._rung, outcome, detail, exc_info=trace)

    def _report(self, runner: ModelRunner, checks: list[SelfCheck]) -> None:
        found = self.attempts[-1]
        checked = "not checked"
        for check in checks[-1:]:
            checked = (
                f"log-probabilities within {found.gap:.2g} of the untouched model's (at most {check.bar.typical:.2g} "
                f"is rounding), checked in {found.seconds:.1f} s"
            )
        before = "".join(f"; '{attempt.rung}' {attempt.outcome}: {attempt.detail}" for attempt in self.attempts[:-1])
        logger.info("Serving by '%s', layers %s: %s%s.", found.rung, runner.layers, checked, before)


def fitting_limits(model: PreTrainedModel, settings: EngineSettings) -> Limits:
    """limits(), with a LoadError for a configuration that lacks what every decoder of this engine has."""
    try:
        return limits(model, settings)
    except (AttributeError, TypeError) as error:
        raise LoadError(
            f"The engine cannot serve models of the family {family(model)}: their configuration is of another kind "
            f"({error})."
        ) from error


def _below(rung: str) -> str:
    return RUNGS[RUNGS.index(rung) + 1]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text if isinstance(error, Mismatch | LoadError) else f"{type(error).__name__}: {text}"
