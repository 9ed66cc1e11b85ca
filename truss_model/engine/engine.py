"""Engine: one thread, one loop (admit, plan, step, emit). Token ids in, token ids out; knows no text, no HTTP.

The event loop talks to it through one thread-safe queue of commands; the outputs of a step go back in one call.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence

from transformers import PreTrainedModel

from truss_model.engine.admission import AdmissionQueue, check_length, check_tokens
from truss_model.engine.commands import CommandQueue
from truss_model.engine.delivery import Delivery, Loop, LoopDelivery
from truss_model.engine.execution.backend import MakeBackend
from truss_model.engine.execution.device import make_backend
from truss_model.engine.execution.ladder import Ladder, StartOptions
from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.model_runner import ModelRunner, RunningStep
from truss_model.engine.execution.sampler import Sampled
from truss_model.engine.generation import Generation
from truss_model.engine.observations import Observations
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduler_slice import shorten_slice
from truss_model.engine.scheduling.kv_cache import PagePool
from truss_model.engine.scheduling.row import Row, make_rows
from truss_model.engine.scheduling.scheduler import Scheduler, StepPlan
from truss_model.engine.settings import EngineSettings
from truss_model.engine.stats import EngineStats
from truss_model.engine.step_faults import STEP_FAILED, StepFaults
from truss_model.errors import EngineUnwell, GenerationFailed, TrussModelError

logger = logging.getLogger(__name__)

STOPPED = "The engine stopped."


class Engine:
    """Continuous batching over one model; LoadError if it cannot be served. submit on an event loop, stop anywhere."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: EngineSettings,
        *,
        eos_token_ids: frozenset[int],
        make_backend: MakeBackend = make_backend,
        options: StartOptions = StartOptions(),  # noqa: B008  (frozen)
        delivery: Delivery | None = None,
    ) -> None:
        self.settings, self._eos, self._vocab = settings, eos_token_ids, int(model.config.vocab_size)
        self.ladder = Ladder(model, settings, eos_token_ids, make_backend, options)
        self._plan_with(self.ladder.limits)
        self._running: RunningStep | None = None
        self._commands, self.observations = CommandQueue(), Observations()
        self._thread: threading.Thread | None = None
        self._landed, self._stopping, self._arrivals, self._faults = 0.0, False, 0, StepFaults()  # landed: a step's end
        self._waiting = AdmissionQueue(settings.max_queue, settings.max_queue_seconds)
        self._rows: dict[Generation, list[Row]] = {}
        self._delivery: Delivery = delivery or LoopDelivery()
        self._steps = self._prefill_tokens = self._cached_tokens = self._generated_tokens = 0

    def _plan_with(self, limits: Limits) -> None:
        self.limits, self.max_model_len = limits, limits.max_model_len
        self._pool = PagePool(limits.pages, limits.page_size, prefix_caching=self.settings.prefix_caching)
        self._scheduler = Scheduler(
            self._pool, max_rows=limits.max_rows, token_budget=limits.token_budget, long_prefill=limits.long_prefill
        )

    def start(self) -> None:
        """Make the model ready, check it and start the engine thread. Raises what the last rung of the ladder does."""
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, args=(ready,), name="engine", daemon=True)
        self._thread.start()
        if (error := ready.get()) is not None:
            raise error

    def stop(self) -> None:
        """Fail what runs and waits with EngineUnwell and end the thread."""
        self._stopping = True
        self._commands.wake()
        self.join()

    def join(self) -> None:
        """Return when the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and its last steps did not all fail. The next step that succeeds heals it."""
        return self._alive and not self._faults.repeated

    @property
    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def stats(self) -> EngineStats:
        now = len(self._scheduler.running), len(self._waiting), self._pool.available, self._pool.pages
        made = self._steps, self._prefill_tokens, self._cached_tokens, self._generated_tokens
        return EngineStats(*now, *made, self._scheduler.preemptions, self._faults.total, self._pool.page_size)

    # The event loop.

    def check_room(self) -> None:
        """Raise EngineUnwell or QueueFull if `submit` would refuse any request."""
        if not self._alive:
            raise EngineUnwell("The engine is not running.")
        self._waiting.check()

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation:
        """Queue a request of n rows; row i of a seeded one draws with seed + i.

        Raises RequestError (context_length_exceeded), QueueFull, EngineUnwell.
        """
        self.check_room()
        check_length(len(prompt), params.max_tokens, self.max_model_len)
        generation = Generation(len(prompt), n, self.cancel)
        self.enqueue(generation, prompt, params, n, asyncio.get_running_loop())
        return generation

    def cancel(self, generation: Generation, index: int | None = None) -> None:
        """Drop one row of a request, or all of them. From any thread."""
        self._commands.put(lambda: self._cancel(generation, index))

    def reject(self, generation: Generation, error: TrussModelError) -> None:
        """Fail a request. From any thread."""
        self._commands.put(lambda: self._fail(generation, error))

    def enqueue(
        self, generation: Generation, prompt: Sequence[int], params: SamplingParams, n: int, loop: Loop
    ) -> None:
        """Queue a request whose length was checked. From one thread at a time. Raises RequestError, EngineUnwell."""
        check_tokens(prompt, params, self._vocab)
        if not self._alive:
            raise EngineUnwell(STOPPED)
        self._arrivals += 1
        rows = make_rows(generation, prompt, params, n, self._arrivals)
        self._waiting.enter(generation)
        self._commands.put(lambda: self._enqueue(generation, rows, loop))
        if self._stopping:  # since the check: the thread may have read its commands for the last time
            self._waiting.leave(generation)
            raise EngineUnwell(STOPPED)

    # The engine thread.

    def _main(self, ready: "queue.SimpleQueue[BaseException | None]") -> None:
        try:
            runner = self.ladder.climb()
            self._plan_with(runner.limits)
        except BaseException as error:
            ready.put(error)
            return
        shorten_slice()
        ready.put(None)
        try:
            while not self._stopping:
                self._commands.run(wait=not (self._running or self._scheduler.running or self._scheduler.waiting))
                self._expire_waiting()
                self._step(runner)
                self._delivery.flush()
        except BaseException:
            logger.critical("The engine thread died.", exc_info=True)
        self._stopping = True
        self._commands.drain()
        self._tell_all()

    def _tell_all(self) -> None:
        """Deliver the errors first: what ended the thread may also break the clean-up of the rows."""
        for generation in self._rows:
            self._delivery.fail(generation, EngineUnwell(STOPPED))
        self._delivery.flush()
        for generation in list(self._rows):
            self._fail(generation, EngineUnwell(STOPPED))

    def _enqueue(self, generation: Generation, rows: list[Row], loop: Loop) -> None:
        self._rows[generation] = rows
        self._delivery.open(generation, loop)
        for row in rows:
            self._scheduler.add(row)

    def _cancel(self, generation: Generation, index: int | None) -> None:
        for row in self._rows.get(generation, ()):
            if index in (None, row.index):
                self._scheduler.drop(row)
        self._close_if_done(generation)

    def _expire_waiting(self) -> None:
        for generation, error in self._waiting.overdue():
            if generation in self._rows:  # else its _enqueue has not run yet
                self._fail(generation, error)

    def _step(self, runner: ModelRunner) -> None:
        """Launch a step and finish one: the same one, or the previous one if the device runs asynchronously."""
        if self._running is not None and not self._may_run_ahead(self._running):
            self._finish_step()
        plan = self._scheduler.plan()
        launched = self._launch(plan, runner) if plan.chunks else None
        self._finish_step()
        self._running = launched
        if not runner.runs_ahead:
            self._finish_step()

    def _may_run_ahead(self, step: RunningStep) -> bool:
        """Whether the next step can be planned and sampled without this one's tokens and without preemption."""
        needed = any(chunk.row.waits_for_token and not chunk.row.ended for chunk in step.sampling)
        return not needed and self._pool.available >= len(self._scheduler.running)

    def _launch(self, plan: StepPlan, runner: ModelRunner) -> RunningStep | None:
        self._report_admissions(plan)
        try:
            step = runner.launch(plan, self._running)
        except Exception as error:
            self._fail_step(plan, error)
            return None
        self._prefill_tokens += self._scheduler.launched(plan)
        return step

    def _finish_step(self) -> None:
        """Wait for the running step, if any, and deliver its tokens. Rows that have ended since are skipped."""
        step, self._running = self._running, None
        if step is None:
            return
        try:
            sampled = step.result()
        except Exception as error:
            self._fail_step(step.plan, error)
            return
        self._faults.succeeded()
        began, self._landed = max(step.began, self._landed), time.monotonic()
        self._scheduler.costs.observe(step.plan, self._landed - began)
        self._steps += 1
        self._scheduler.computed(step.plan)
        for (row, start, length, _), token in zip(step.sampling, sampled.tokens, strict=True):
            row.tokens[start + length] = token
        self.observations.stepped(step.plan, step.sampling, self._landed, 1 - self._pool.available / self._pool.pages)
        self._emit(step, sampled)

    def _report_admissions(self, plan: StepPlan) -> None:
        for row in plan.admitted:
            if self._waiting.admit(row.generation):
                self._cached_tokens += row.computed
                self.observations.admitted(row)
                self._delivery.admit(row.generation, row.computed)
        self._delivery.flush()  # before the step, which may take long for a long prompt

    def _emit(self, step: RunningStep, sampled: Sampled) -> None:
        for row, scores in sampled.scores:
            self._delivery.score(row.generation, scores)
        for (row, start, length, _), token, logprob in zip(
            step.sampling, sampled.tokens, sampled.logprobs, strict=True
        ):
            if row.ended or not self._advance(row, token):
                continue
            reason = row.ended_by(token, start + length + 1, self._eos)
            if row.params.max_tokens:
                self._generated_tokens += 1
                self._delivery.put(row.generation, row.index, token, logprob, reason)
            else:
                self._delivery.put(row.generation, row.index, None, None, reason)
            if reason is not None:
                self._scheduler.drop(row)
                self._close_if_done(row.generation)

    def _advance(self, row: Row, token: int) -> bool:
        """Whether the row goes on with this token, or ends with it."""
        if (error := row.accept(token)) is not None:
            self._faults.total += isinstance(error, GenerationFailed)
            self._fail(row.generation, error)
        return not row.ended

    def _fail_step(self, plan: StepPlan, error: Exception) -> None:
        """Fail the step's rows. Raises GpuLost, which ends the thread, where no later step can succeed."""
        self.ladder.remember(error)
        for chunk in plan.chunks:
            self._scheduler.discard(chunk.row)
        for generation in {chunk.row.generation for chunk in plan.chunks}:
            self._fail(generation, GenerationFailed(STEP_FAILED))
        self._faults.failed(len(plan.chunks), error)

    def _fail(self, generation: Generation, error: TrussModelError) -> None:
        for row in self._rows.get(generation, ()):
            self._scheduler.drop(row)
        self._delivery.fail(generation, error)
        self._forget(generation)

    def _close_if_done(self, generation: Generation) -> None:
        rows = self._rows.get(generation, ())
        if all(row.ended for row in rows):
            self.observations.closed(rows)
            self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        self._waiting.leave(generation)
        self._rows.pop(generation, None)
        self._delivery.close(generation)
