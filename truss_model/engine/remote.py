"""The engine as the server sees it: a process beside it, started again when it ends. Knows no tensors and no text.

The server keeps what it must answer at once (lengths, the queue); tokens come back as one frame a step, read on the
event loop whenever that has time, so that a busy server gets several steps' tokens at once.
"""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truss_model.engine.admission import AdmissionQueue, check_length
from truss_model.engine.generation import Generation, PromptScore, TokenLogprob, TokenOutput
from truss_model.engine.histogram import Distribution
from truss_model.engine.messages import NO_TOKEN, REASONS, pack_params, unpack_error
from truss_model.engine.sampling_params import Grammar, SamplingParams
from truss_model.engine.settings import EngineSettings
from truss_model.engine.stats import Attempt, EngineStats
from truss_model.engine.worker_process import WORKER, WorkerProcess
from truss_model.errors import EngineUnwell, GpuLost

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.0, 1.0, 5.0, 30.0)  # before each attempt to start it again; the last one counts for all later ones
STARTS = 4  # of processes, each with less than the one before
FEW_TOKENS = 8
LONGEST_REST = 0.02  # seconds; a loop that needs more than half its time would let the socket fill, and seconds pass
LOOKS = 4  # at a process in the time of a step; a machine that slept meanwhile makes one of them late, not all
STOPPED = "The engine stopped."


class RemoteEngine:
    """start and stop from any thread, submit on an event loop, the same one as long as requests run."""

    def __init__(
        self, settings: EngineSettings, config: Mapping[str, Any], token: str | None, *, module: str = WORKER
    ) -> None:
        """config, token: what the process loads its weights by. module: what it runs."""
        self._make: Callable[[], WorkerProcess] = functools.partial(WorkerProcess, module, config, token)
        self._worker: WorkerProcess | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # where the worker's socket is read
        self._waiting = AdmissionQueue(settings.max_queue, settings.max_queue_seconds)
        self._generations: dict[int, Generation] = {}
        self._numbers = 0
        self._counts: tuple[Any, ...] = ()
        self._distributions: Mapping[str, Distribution] = {}
        self._look_seconds = settings.step_timeout_seconds / LOOKS
        self._next_look: asyncio.TimerHandle | None = None
        self._silent = 0  # looks since the last frame
        self._stopping = threading.Event()
        self._restart: threading.Thread | None = None
        self.max_model_len = 0
        self.attempts: Sequence[Attempt] = ()  # of the last start

    def start(self) -> WorkerProcess:
        """Start the process and wait until it is ready. Raises LoadError."""
        worker = self._start()
        self._adopt(worker)
        return worker

    def _start(self) -> WorkerProcess:
        """One that a fault of the GPU ended is followed at once: the next one leaves out what led to it."""
        for _ in range(STARTS - 1):
            try:
                return self._make()
            except GpuLost as error:
                logger.warning("%s", error.message)
        return self._make()

    def _adopt(self, worker: WorkerProcess) -> None:
        self.max_model_len, self.attempts, self._worker = worker.max_model_len, worker.attempts, worker

    def stop(self) -> None:
        """End the process; what runs fails with EngineUnwell. On the event loop, if one has submitted."""
        self._stopping.set()
        self._part_with(self._lose(EngineUnwell(STOPPED)))
        if self._restart is not None:
            self._restart.join()

    @property
    def pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    @property
    def healthy(self) -> bool:
        """Whether the process lives and its last steps did not all fail."""
        self._catch_up()
        return self._worker is not None and (not self._counts or bool(self._counts[-1]))

    def stats(self) -> EngineStats:
        """As of the last step; of an engine that is being started again only what waits."""
        self._catch_up()
        if not self._counts:
            return EngineStats(0, len(self._waiting), *[0] * 9)
        return EngineStats(*self._counts[:-1])

    def distributions(self) -> Mapping[str, Distribution]:
        """By metric name, some tenths of a second late while rows run."""
        return self._distributions

    def _catch_up(self) -> None:
        """Read what the process has sent while no loop does so: before the first request."""
        if self._loop is None and self._worker is not None:
            try:
                for message in self._worker.frames.available():
                    self._hand_out(*message)
            except (EOFError, OSError):
                self._lost()

    # The event loop.

    def check_room(self) -> None:
        """Raise EngineUnwell or QueueFull where `submit` would, whatever is submitted."""
        if self._worker is None:
            raise EngineUnwell("The engine is not running.")
        self._waiting.check()

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation:
        """Queue a request of n rows; row i of a seeded one draws with seed + i.

        Raises RequestError (context_length_exceeded), QueueFull, EngineUnwell.
        """
        self.check_room()
        check_length(len(prompt), params.max_tokens, self.max_model_len)
        grammar = params.constraint
        if grammar is not None and not isinstance(grammar, Grammar):
            raise TypeError("A constraint for another process must be a Grammar.")
        self._numbers += 1
        number = self._numbers
        generation = Generation(len(prompt), n, lambda generation, index: self._cancel(number, generation, index))
        self._read_on(asyncio.get_running_loop())
        source = None if grammar is None else grammar.source
        self._send(("submit", number, list(prompt), n, pack_params(params), source))
        self._generations[number] = generation
        self._waiting.enter(generation)
        if self._next_look is None:
            self._silent = 0
            self._look_later()
        return generation

    def _look_later(self) -> None:
        if self._loop is not None:
            self._next_look = self._loop.call_later(self._look_seconds, self._look)

    def _look(self) -> None:
        """A process that has requests sends a frame a step. One that sends none for the time of a step has hung."""
        self._next_look = None
        self._silent += 1
        if not self._generations:
            return
        if self._silent <= LOOKS:
            self._look_later()
            return
        logger.critical("The engine's process has not ended a step for %g s.", LOOKS * self._look_seconds)
        self._lost()

    def _cancel(self, number: int, generation: Generation, index: int | None) -> None:
        if not generation.open and self._generations.pop(number, None) is not None:
            self._waiting.leave(generation)
        self._send(("cancel", number, index))

    def _read_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop and self._worker is not None:
            self._stop_reading()
            loop.add_reader(self._worker.connection, self._read)
            self._loop = loop

    def _stop_reading(self) -> None:
        if self._loop is not None and self._worker is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._worker.connection)
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = self._loop = None

    def _send(self, message: tuple[Any, ...]) -> None:
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(OSError):  # it has ended: the reader is told
                worker.send(message)

    def _read(self) -> None:
        """Hand out what has come; then, after many rows, rest for as long as their readers took to write it out.

        So others get half of the loop's time if it has that, and tokens that come faster than that go out together.
        """
        worker, loop = self._worker, self._loop
        if worker is None or loop is None:
            return
        began, tokens = loop.time(), 0
        try:
            for message in worker.frames.available():
                self._hand_out(*message)
                tokens += len(message[2])
        except (EOFError, OSError):
            self._lost()
            return
        except Exception:
            logger.critical("What the engine's process has sent cannot be handed out.", exc_info=True)
            self._lost()
            return
        if tokens >= FEW_TOKENS:
            loop.remove_reader(worker.connection)
            loop.call_soon(self._rest, worker, loop, began)  # behind the readers that were woken up

    def _rest(self, worker: WorkerProcess, loop: asyncio.AbstractEventLoop, began: float) -> None:
        loop.call_later(min(loop.time() - began, LONGEST_REST), self._resume, worker, loop)

    def _resume(self, worker: WorkerProcess, loop: asyncio.AbstractEventLoop) -> None:
        if self._worker is worker and self._loop is loop:
            loop.add_reader(worker.connection, self._read)

    def _hand_out(
        self,
        admitted: list[tuple[int, int]],
        scores: list[tuple[int, list[tuple[Any, ...]]]],
        numbers: list[int],
        indexes: list[int],
        tokens: list[int],
        reasons: list[int],
        logprobs: dict[int, tuple[float, tuple[tuple[int, float], ...]]],
        failed: list[tuple[int, tuple[Any, ...]]],
        counts: tuple[Any, ...],
        distributions: dict[str, tuple[Any, ...]] | None,
    ) -> None:
        self._counts = counts
        self._silent = 0
        if distributions is not None:
            self._distributions = {name: Distribution(*found) for name, found in distributions.items()}
        generations = self._generations
        for number, cached_tokens in admitted:
            if (generation := generations.get(number)) is not None:
                self._waiting.admit(generation)
                generation.admit(cached_tokens)
        for number, found in scores:
            if (generation := generations.get(number)) is not None:
                generation.score([PromptScore(*score) for score in found])
        for at, number in enumerate(numbers):
            if (generation := generations.get(number)) is None:
                continue
            told = [TokenLogprob(*logprobs[at])] if at in logprobs else []
            made = [] if tokens[at] == NO_TOKEN else [tokens[at]]
            generation.deliver(TokenOutput(indexes[at], made, told, REASONS[reasons[at]]))
            if not generation.open:
                del generations[number]
        for number, error in failed:
            if (generation := generations.pop(number, None)) is not None:
                self._waiting.leave(generation)
                generation.fail(unpack_error(error))

    # A process that has ended.

    def _lost(self) -> None:
        if self._worker is None:
            return
        logger.critical("The engine's process is lost; it is started again.")
        worker = self._lose(EngineUnwell("The engine failed and is being started again. You may retry the request."))
        self._restart = threading.Thread(target=self._start_again, args=(worker,), name="engine-restart", daemon=True)
        self._restart.start()

    def _lose(self, error: EngineUnwell) -> WorkerProcess | None:
        """Tell everybody who waits for the process. It is returned, for whoever may wait for its end."""
        self._stop_reading()
        worker, self._worker = self._worker, None
        self._counts = ()
        generations, self._generations = self._generations, {}
        for generation in generations.values():
            self._waiting.leave(generation)
            generation.fail(error)
        return worker

    @staticmethod
    def _part_with(worker: WorkerProcess | None) -> None:
        if worker is not None:
            logger.info("The engine's process ended with %s.", worker.end())

    def _start_again(self, lost: WorkerProcess | None) -> None:
        """On a thread of its own. A process that holds a GPU's memory may take seconds to end."""
        self._part_with(lost)
        attempt = 0
        while not self._stopping.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]):
            attempt += 1
            try:
                worker = self._start()
            except Exception as error:  # whatever keeps it from starting may pass
                logger.error("The engine cannot be started again: %s", error)
                continue
            if self._stopping.is_set():
                self._part_with(worker)
            else:
                self._adopt(worker)
                logger.info("The engine is ready again.")
            return
