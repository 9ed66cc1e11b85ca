"""The engine's process: loads the weights, runs the engine, and answers the server over the socket it was given.

`python -m truss_model.worker FD`. It ends when the server does: the socket is closed then, however that came about.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from truss_model.collector import collector_at_rest
from truss_model.engine.messages import FrameReader, frame, unpack_params
from truss_model.engine.pipe_delivery import NumberedGeneration, PipeDelivery
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import GenerationFailed, GpuLost, LoadError, TrussModelError
from truss_model.import_block import import_block
from truss_model.settings import read_settings

if TYPE_CHECKING:
    from truss_model.built_engine import BuiltEngine
    from truss_model.engine.engine import Engine

logger = logging.getLogger(__name__)

SEND_BUFFER = 4 << 20  # bytes; some hundred steps of 256 rows
COMPILERS = 2  # threads that make grammars


def build_engine(config: Mapping[str, Any], token: str | None, delivery: PipeDelivery) -> "BuiltEngine":
    """The real one. Raises LoadError.

    transformers imports torchao wherever it is installed, which takes a second and warns of what torchao lacks, and
    keeps its first look at it for good. Hence it looks while torchao is out of sight, unless that is wanted.
    """
    quantization = read_settings(config, os.environ).model.quantization
    logger.info("Importing torch and transformers (slower the first time).")
    with import_block("torchao") if quantization == "none" else nullcontext():
        from truss_model import built_engine

    return built_engine.build_engine(config, token, delivery)


class Requests:
    """What the server asks, on the thread that reads the socket."""

    def __init__(self, built: "BuiltEngine", delivery: PipeDelivery) -> None:
        self._engine, self._grammars = built.engine, built.grammars
        self._generations = delivery.generations
        self._compilers = ThreadPoolExecutor(COMPILERS, "grammar")
        self._lock = threading.Lock()  # the engine takes requests from one thread at a time
        self._compiling: set[int] = set()

    def handle(self, message: tuple[Any, ...]) -> None:
        kind, number, *rest = message
        if kind == "cancel":
            self._cancel(number, rest[0])
            return
        prompt, n, values, grammar = rest
        generation = self._generations[number] = NumberedGeneration(number, len(prompt), n)
        if grammar is None:
            with self._failing(generation):
                self._enqueue(generation, prompt, unpack_params(values), n)
        else:
            self._compiling.add(number)
            self._compilers.submit(self._compile, generation, prompt, values, n, grammar)

    def _cancel(self, number: int, index: int | None) -> None:
        with self._lock:
            if number in self._compiling:
                self._compiling.discard(number)
                self._generations.pop(number, None)
            elif (generation := self._generations.get(number)) is not None:
                self._engine.cancel(generation, index)

    def _compile(
        self,
        generation: NumberedGeneration,
        prompt: list[int],
        values: tuple[Any, ...],
        n: int,
        source: tuple[str, str],
    ) -> None:
        with self._failing(generation):
            constraint = self._grammars.restore(source)
            with self._lock:
                if generation.number not in self._compiling:  # cancelled meanwhile
                    return
                self._compiling.discard(generation.number)
            self._enqueue(generation, prompt, replace(unpack_params(values), constraint=constraint), n)

    def _enqueue(self, generation: NumberedGeneration, prompt: list[int], params: SamplingParams, n: int) -> None:
        with self._lock:
            self._engine.enqueue(generation, prompt, params, n, None)

    @contextlib.contextmanager
    def _failing(self, generation: NumberedGeneration) -> Iterator[None]:
        """Whatever goes wrong in this block is told to the caller, who waits for nothing else."""
        try:
            yield
        except TrussModelError as error:
            self._engine.reject(generation, error)
        except Exception:
            logger.exception("A request could not be started.")
            self._compiling.discard(generation.number)
            self._engine.reject(generation, GenerationFailed("The request could not be started."))


class JsonFormatter(logging.Formatter):
    """Lines as the Truss server's own."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"asctime": self.formatTime(record), "levelname": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        return json.dumps(line)


Build = Callable[[Mapping[str, Any], str | None, PipeDelivery], "BuiltEngine"]


def run(connection: socket.socket, build: Build = build_engine) -> None:
    """Serve until the other end closes. The first frame has the configuration; the first answer is what was built."""
    frames = FrameReader(connection)
    try:
        [(config, token)] = frames.wait()
        delivery = PipeDelivery(connection.sendall)
        with collector_at_rest():
            built = build(config, token, delivery)
    except LoadError as error:
        connection.sendall(frame(("failed", error.message, error.transient, isinstance(error, GpuLost))))
        return
    except Exception as error:
        logger.exception("The engine cannot start.")
        connection.sendall(frame(("failed", f"The engine cannot start: {type(error).__name__}: {error}", False, False)))
        return
    engine = built.engine
    attempts = [astuple(attempt) for attempt in engine.ladder.attempts]
    connection.sendall(frame(("ready", engine.max_model_len, str(built.folder), built.name, attempts)))
    delivery.distributions = engine.observations.distributions
    delivery.state = lambda: (engine.stats(), engine.healthy)
    threading.Thread(target=_end_with, args=(engine,), name="watch", daemon=True).start()
    requests = Requests(built, delivery)
    try:
        while True:
            for message in frames.wait():
                requests.handle(message)
    except (EOFError, OSError):
        os._exit(0)  # nobody is left who could be told anything
    except BaseException:
        logger.critical("What the server has sent cannot be read.", exc_info=True)
        os._exit(1)  # threads that still work would keep the process, and every caller waiting


def _end_with(engine: "Engine") -> None:
    """The server finds out by the closed socket, and starts another process."""
    engine.join()
    os._exit(1)


def main(build: Build = build_engine) -> None:
    """argv: the descriptor of the socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # what ends the server's group: the server drains
        signal.signal(number, signal.SIG_IGN)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    run(connection, build)


if __name__ == "__main__":
    main()
