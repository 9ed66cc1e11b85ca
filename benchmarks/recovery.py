"""A process ends under streams: when each caller knows, what it is told, and how long until the next answer.

The Truss and the adapter are started again from here; the engine's process is the Truss's to start again.
`python -m benchmarks.recovery [--rounds 3] [--streams 8] [--only engine]`
"""

import argparse
import asyncio
import signal
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientError

from benchmarks.client import ChatClient, RequestFailed
from benchmarks.figures import medians
from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import READY_SECONDS, REPOSITORY
from scripts.assemble import Image, assemble
from scripts.interrupt import exit_on_signals
from scripts.process import ServerProcess, free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss

MODEL = "demo"
LONG, DRAINED = 2000, 100  # tokens: more than are made before the signal, and few enough to be finished after it
PROMPT = [{"role": "user", "content": "Tell me a long story."}]
UNDER_WAY = 1.0  # seconds for the streams to begin
EXIT_SECONDS = 60.0
POLL_SECONDS = 0.05
ENGINE = "truss_model.worker"
COLUMNS = (
    "what ends",
    "streams",
    "whole",
    "told",
    "told p50 ms",
    "told last ms",
    "exit s",
    "answers again s",
    "start s",
)


@dataclass(frozen=True, slots=True)
class Case:
    """`tokens`: what each stream asks for."""

    process: str
    number: signal.Signals
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.process}, {self.number.name}"


CASES = (
    Case("Truss", signal.SIGKILL, LONG),
    Case("adapter", signal.SIGKILL, LONG),
    Case("engine", signal.SIGKILL, LONG),
    Case("Truss", signal.SIGTERM, DRAINED),
    Case("adapter", signal.SIGTERM, DRAINED),
)


class Stack:
    """The demo model behind a Truss and an adapter, each of which can be started again at its port."""

    def __init__(self, image: Image, run_dir: Path, exits: ExitStack) -> None:
        self._image, self._run_dir, self._exits = image, run_dir, exits
        self._ports = {"Truss": free_port(), "adapter": free_port()}
        self.processes: dict[str, ServerProcess] = {}
        self.start_s: dict[str, float] = {}  # of the last start; the engine's is nearly all of the Truss's
        for name in self._ports:
            self.start(name)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['adapter']}"

    def start(self, name: str) -> None:
        """Returns when it is ready."""
        port, began = self._ports[name], time.perf_counter()
        if name == "Truss":
            environment = {"TRUSS_MODEL_ID": MODEL}
            process = start_truss(self._image, port, self._run_dir, environment=environment)
            self.processes[name] = self._exits.enter_context(process)
            wait_truss(process, port, READY_SECONDS)
        else:
            settings = {"models": {MODEL: {"url": truss_url(self._ports["Truss"])}}, "observe": {"access_log": "off"}}
            process = start_adapter(settings, port, self._run_dir)
            self.processes[name] = self._exits.enter_context(process)
            wait_adapter(process, port)
        self.start_s[name] = time.perf_counter() - began

    def engine(self) -> psutil.Process:
        """The one of the Truss."""
        tree = psutil.Process(self.processes["Truss"].pid).children(recursive=True)
        (engine,) = (process for process in tree if ENGINE in process.cmdline())
        return engine


async def measure(stack: Stack, case: Case, streams: int) -> dict[str, float]:
    """One signal under `streams` streams; the process is started again when the last of them has ended."""
    async with ChatClient(stack.url, MODEL, forced=True) as client:

        async def stream() -> tuple[bool, float]:
            try:
                await client.ask(PROMPT, case.tokens)
            except (RequestFailed, ClientError):
                return False, time.perf_counter()
            return True, time.perf_counter()

        asked = [asyncio.create_task(stream()) for _ in range(streams)]
        await asyncio.sleep(UNDER_WAY)
        at = time.perf_counter()
        if case.process == "engine":
            engine = stack.engine()
            engine.send_signal(case.number)
            ended = await asyncio.gather(*asked)
            await asyncio.to_thread(engine.wait, EXIT_SECONDS)
            exited, restarted = time.perf_counter(), at
            await until_answered(client)
        else:
            process = stack.processes[case.process]
            process.signal(case.number)
            ended = await asyncio.gather(*asked)
            await asyncio.to_thread(process.wait, EXIT_SECONDS)
            exited = time.perf_counter()
            process.stop()
            restarted = time.perf_counter()
            await asyncio.to_thread(stack.start, case.process)
            await client.ask(PROMPT, 1)
        told = [when - at for whole, when in ended if not whole]
        return {
            "whole": sum(whole for whole, _ in ended),
            "told": len(told),
            "told_p50_ms": statistics.median(told) * 1e3 if told else 0.0,
            "told_last_ms": max(told, default=0.0) * 1e3,
            "exit_s": exited - at,
            "answers_again_s": time.perf_counter() - restarted,
            "start_s": stack.start_s["adapter" if case.process == "adapter" else "Truss"],
        }


async def until_answered(client: ChatClient) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                await client.ask(PROMPT, 1)
                return
            except (RequestFailed, ClientError):
                await asyncio.sleep(POLL_SECONDS)


async def run(options: argparse.Namespace, stack: Stack) -> dict[str, dict[str, float]]:
    cases = [case for case in CASES if options.only in (None, case.process)]
    done: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for number in range(options.rounds):
        for case in cases:
            say(f"round {number + 1} of {options.rounds}: {case.name}")
            done[case.name].append(await measure(stack, case, options.streams))
    return {name: medians(rounds) for name, rounds in done.items()}


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--only", choices=sorted({case.process for case in CASES}), help="the process that ends")
    options = parser.parse_args()
    run_dir = run_folder()
    with ExitStack() as exits:
        stack = Stack(assemble(REPOSITORY, run_dir / "image"), run_dir, exits)
        found: dict[str, Any] = asyncio.run(run(options, stack))
    rows = [[name, options.streams, *one.values()] for name, one in found.items()]
    table("A process ends under streams, and is started again", COLUMNS, rows)
    Report("recovery").add("recovery", {**vars(options), "result": found})


if __name__ == "__main__":
    main()
