"""The engine without Truss, adapter and HTTP, in a process of its own that takes cases on stdin, one JSON line each."""

import asyncio
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.client import Answer
from benchmarks.demo_engine import DemoEngine, demo_engine, greedy
from benchmarks.figures import Figures, figures
from benchmarks.load import Case, closed_loop
from benchmarks.process_tree import ProcessTree
from benchmarks.prompts import question

LONGEST_CASE = 600.0


class InProcess:
    """The parent's side."""

    name = "ours, in process"

    def __init__(self, popen: subprocess.Popen[str], to: IO[str], back: IO[str]) -> None:
        self._popen, self._to, self._back = popen, to, back

    def run(self, case: Case, nonce: int) -> Figures:
        self._to.write(json.dumps({"case": dataclasses.asdict(case), "nonce": nonce}) + "\n")
        self._to.flush()
        return Figures(**json.loads(self.read_line()))

    def read_line(self) -> str:
        if not select.select([self._back], [], [], LONGEST_CASE)[0]:
            raise TimeoutError(f"No figures from {self.name} after {LONGEST_CASE:.0f} s.")
        return self._back.readline()

    def pause(self) -> None:
        os.killpg(self._popen.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._popen.pid, signal.SIGCONT)


@contextmanager
def in_process(log: Path) -> Iterator[InProcess]:
    """Ready when entered."""
    with log.open("w") as errors:
        popen = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.in_process"],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        if popen.stdin is None or popen.stdout is None:
            raise RuntimeError("The process has no pipes.")
        worker = InProcess(popen, popen.stdin, popen.stdout)
        if worker.read_line().strip() != "ready":
            raise RuntimeError(f"The engine did not start: {log.read_text()[-2000:]}")
        yield worker
    finally:
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


async def _case(demo: DemoEngine, case: Case, nonce: int) -> Figures:
    prompts = [demo.encode(question(nonce * 10_000 + i, case.prompt)) for i in range(case.requests)]
    tree = ProcessTree([os.getpid()])

    async def ask(number: int) -> Answer:
        return await demo.generate(prompts[number], greedy(case.tokens))

    before = tree.cpu_seconds()
    answers = await closed_loop(ask, case.clients, case.requests)
    return figures(answers, tree.cpu_seconds() - before, tree.peak_rss_mb())


def main() -> None:
    with demo_engine() as demo:
        asyncio.run(_case(demo, Case(2, 2, 4), 99))
        print("ready", flush=True)
        for line in sys.stdin:
            told = json.loads(line)
            result = asyncio.run(_case(demo, Case(**told["case"]), told["nonce"]))
            print(json.dumps(dataclasses.asdict(result)), flush=True)


if __name__ == "__main__":
    main()
