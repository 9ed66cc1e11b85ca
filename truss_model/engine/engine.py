"""Engine: one thread, one loop (admit, plan, step, emit). Token ids in, token ids out; knows no text, no HTTP.

The event loop talks to it through one thread-safe queue of commands; what a step made goes back with one call a step.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from truss_model.engine.backend import MakeBackend, make_backend
from truss_model.engine.delivery import Delivery
from truss_model.engine.generation import Generation, TokenOutput
from truss_model.engine.kv_cache import PagePool
from truss_model.engine.limits import Limits, limits
from truss_model.engine.params import SamplingParams, TokenConstraint
from truss_model.engine.row import PENDING, Row, make_rows
from truss_model.engine.runner import Runner, RunningStep
from truss_model.engine.sampling import Sampled
from truss_model.engine.scheduler import Scheduler, StepPlan
from truss_model.engine.settings import EngineSettings
from truss_model.engine.stats import EngineStats
from truss_model.engine.waiting import WaitingRoom
from truss_model.errors import EngineUnwell, GenerationFailed, RequestError, TrussModelError

logger = logging.getLogger(__name__)

FAULTS_TO_UNWELL = 3  # failed steps in a row
IDLE_WAKE = 1.0  # seconds; how late the queue's time limit may be noticed while nothing runs
STOPPED = "The engine stopped."
Command = Callable[[], None]


class Engine:
    """Continuous batching over one transformers model. start and stop from any thread, submit on an event loop."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: EngineSettings,
        *,
        eos_token_ids: frozenset[int],
        make_backend: MakeBackend = make_backend,
    ) -> None:
        self.settings = settings
        self.limits: Limits = limits(model, settings)
        self.max_model_len = self.limits.max_model_len
        self._model = model
        self._eos = eos_token_ids
        self._make_backend = make_backend
        self._pool = PagePool(self.limits.pages, self.limits.page_size, prefix_caching=settings.prefix_caching)
        at = self.limits
        self._scheduler = Scheduler(
            self._pool, max_rows=at.max_rows, token_budget=at.token_budget, long_prefill=at.long_prefill
        )
        self._running: RunningStep | None = None
        self._landed = 0.0  # when the last step ended
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._arrivals = 0
        self._waiting = WaitingRoom(settings.max_queue, settings.max_queue_seconds)
        self._rows: dict[Generation, list[Row]] = {}
        self._delivery = Delivery()
        self._faults_in_a_row = 0
        self._steps = self._prefill_tokens = self._cached_tokens = self._generated_tokens = self._faults = 0

    def start(self) -> None:
        """Make the model ready, warm it up and start the engine thread. Raises what the model raises."""
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, args=(ready,), name="engine", daemon=True)
        self._thread.start()
        if (error := ready.get()) is not None:
            raise error

    def stop(self) -> None:
        """Fail what runs and waits with EngineUnwell and end the thread."""
        if self._thread is None:
            return
        self._stopping = True
        self._commands.put(None)
        self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and its last steps did not all fail. Heals itself with the next good step."""
        return self._alive and self._faults_in_a_row < FAULTS_TO_UNWELL

    @property
    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def stats(self) -> EngineStats:
        return EngineStats(
            rows_running=len(self._scheduler.running),
            requests_waiting=len(self._waiting),
            pages_free=self._pool.available,
            pages_total=self._pool.pages,
            steps=self._steps,
            prefill_tokens=self._prefill_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._scheduler.preemptions,
            faults=self._faults,
        )

    # The event loop.

    def check_room(self) -> None:
        """Raise EngineUnwell or QueueFull where `submit` would, whatever is submitted."""
        if not self._alive:
            raise EngineUnwell("The engine is not running.")
        self._waiting.check()

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation:
        """Queue a request of n rows; row i of a seeded one draws with seed + i.

        Raises RequestError (context_length_exceeded), QueueFull, EngineUnwell.
        """
        self.check_room()
        self.limits.check_length(len(prompt), params.max_tokens)
        generation = Generation(len(prompt), n, lambda it, index: self._commands.put(lambda: self._cancel(it, index)))
        self._arrivals += 1
        rows, loop = make_rows(generation, prompt, params, n, self._arrivals), asyncio.get_running_loop()
        self._waiting.enter(generation)
        self._commands.put(lambda: self._enqueue(generation, rows, loop))
        if self._stopping:  # since the check: the thread may have looked for the last time before that
            self._waiting.leave(generation)
            raise EngineUnwell(STOPPED)
        return generation

    # The engine thread.

    def _main(self, ready: "queue.SimpleQueue[BaseException | None]") -> None:
        try:
            runner = Runner(self._model, self.limits, self._eos, self.settings, self._make_backend)
            runner.warm_up()
        except BaseException as error:
            ready.put(error)
            return
        ready.put(None)
        try:
            while not self._stopping:
                self._take_commands()
                self._expire_waiting()
                self._turn(runner)
                self._delivery.flush()
        except BaseException:
            logger.critical("The engine thread died.", exc_info=True)
        finally:
            self._stopping = True
            self._take_commands(wait=False)
            # First tell everybody: what has ended the loop may break what is done with the rows, too.
            for generation in self._rows:
                self._delivery.fail(generation, EngineUnwell(STOPPED))
            self._delivery.flush()
            for generation in list(self._rows):
                self._fail(generation, EngineUnwell(STOPPED))

    def _take_commands(self, *, wait: bool = True) -> None:
        idle = wait and not (self._running or self._scheduler.running or self._scheduler.waiting)
        while True:
            try:
                command = self._commands.get(block=idle, timeout=IDLE_WAKE if idle else None)
            except queue.Empty:
                return
            idle = False
            if command is not None:
                command()

    def _enqueue(self, generation: Generation, rows: list[Row], loop: asyncio.AbstractEventLoop) -> None:
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
            if generation in self._rows:  # else its command is still to come
                self._fail(generation, error)

    def _turn(self, runner: Runner) -> None:
        """Launch a step and end one: the same, or where the device works beside the host, the one before."""
        if self._running is not None and not self._may_run_ahead(self._running):
            self._land()
        plan = self._scheduler.plan()
        launched = self._launch(plan, runner) if plan.chunks else None
        self._land()
        self._running = launched
        if not runner.runs_ahead:
            self._land()

    def _may_run_ahead(self, step: RunningStep) -> bool:
        """Whether the next step can be planned and sampled without this one's tokens, and preempts nobody."""
        needed = any(chunk.row.waits_for_token and not chunk.row.gone for chunk in step.sampling)
        return not needed and self._pool.available >= len(self._scheduler.running)

    def _launch(self, plan: StepPlan, runner: Runner) -> RunningStep | None:
        self._note_admissions(plan)
        try:
            step = runner.launch(plan, self._running)
        except Exception as error:
            self._fail_step(plan, error)
            return None
        self._prefill_tokens += sum(chunk.count for chunk in plan.chunks if chunk.row.generated == 0)
        for chunk in plan.chunks:
            self._scheduler.launched(chunk)
            if chunk.samples:
                chunk.row.tokens.append(PENDING)
        return step

    def _land(self) -> None:
        """Wait for the running step, if any, and hand out what it made. Rows that ended since are passed over."""
        step, self._running = self._running, None
        if step is None:
            return
        try:
            sampled = step.result()
        except Exception as error:
            self._fail_step(step.plan, error)
            return
        self._faults_in_a_row = 0
        began, self._landed = max(step.began, self._landed), time.monotonic()
        self._scheduler.costs.observe(step.plan, self._landed - began)
        self._steps += 1
        for chunk in step.plan.chunks:
            if not chunk.row.gone:
                self._scheduler.computed(chunk)
        for chunk, token in zip(step.sampling, sampled.tokens, strict=True):
            chunk.row.tokens[chunk.start + chunk.count] = token
        self._emit(step, sampled)

    def _note_admissions(self, plan: StepPlan) -> None:
        for row in plan.admitted:
            if self._waiting.admit(row.generation):
                self._cached_tokens += row.computed
                self._delivery.admit(row.generation, row.computed)
        self._delivery.flush()  # told before the step: a long prompt's may take its time

    def _emit(self, step: RunningStep, sampled: Sampled) -> None:
        for chunk, token, logprob in zip(step.sampling, sampled.tokens, sampled.logprobs, strict=True):
            row = chunk.row
            if row.gone:
                continue
            self._generated_tokens += 1
            if row.constraint is not None and not self._advance(row, row.constraint, token):
                continue
            row.finish_reason = row.ended_by(token, chunk.start + chunk.count + 1, self._eos)
            logprobs = [logprob] if logprob else []
            self._delivery.put(row.generation, TokenOutput(row.index, [token], logprobs, row.finish_reason))
            if row.finish_reason is not None:
                self._scheduler.drop(row)
                self._close_if_done(row.generation)

    def _advance(self, row: Row, constraint: TokenConstraint, token: int) -> bool:
        try:
            if row.fault is not None:
                raise row.fault
            constraint.accept(token)
        except RequestError as error:  # a schema that asks for too much work: the caller's doing
            self._fail(row.generation, error)
        except Exception:
            logger.exception("The grammar of a row failed.")
            self._faults += 1
            self._fail(row.generation, GenerationFailed("The answer's grammar failed."))
        return not row.gone

    def _fail_step(self, plan: StepPlan, error: Exception) -> None:
        logger.exception("A step of %d rows failed.", len(plan.chunks), exc_info=error)
        self._faults, self._faults_in_a_row = self._faults + 1, self._faults_in_a_row + 1
        for chunk in plan.chunks:
            self._scheduler.discard(chunk.row)
        for generation in {chunk.row.generation for chunk in plan.chunks}:
            self._fail(generation, GenerationFailed("The model failed while generating. You may retry the request."))

    def _fail(self, generation: Generation, error: TrussModelError) -> None:
        for row in self._rows.get(generation, ()):
            self._scheduler.drop(row)
        self._delivery.fail(generation, error)
        self._forget(generation)

    def _close_if_done(self, generation: Generation) -> None:
        if all(row.gone for row in self._rows.get(generation, ())):
            self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        self._waiting.leave(generation)
        self._rows.pop(generation, None)
        self._delivery.close(generation)
