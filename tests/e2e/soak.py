"""`make soak`: mixed traffic for a while, after which everything must be as before. Prints a table."""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil
from openai import AsyncOpenAI

from scripts.assemble import assemble
from scripts.interrupt import exit_on_signals
from scripts.process import free_port
from scripts.serve import REPOSITORY
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss
from tests.e2e.engine_counts import engine_counts, until
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service
from tests.e2e.traffic import Tally, Traffic
from tests.tiny_mistral import write_tiny_mistral

CLIENTS = 40
SAMPLE_SECONDS = 5.0
WARM_UP = 300.0  # seconds in which memory may still grow, or half of a shorter run
REST_SECONDS = 60.0  # idle connections are closed sooner than that


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds at one moment."""

    rss: int
    files: int
    threads: int


@dataclass(frozen=True, slots=True)
class Report:
    """`before` and `after` are taken when nothing runs; `growth` is of the memory since the warm-up."""

    tally: Tally
    seconds: float
    before: dict[str, Usage]
    after: dict[str, Usage]
    growth: dict[str, float]
    engine: dict[str, float]
    answered: float

    def faults(self, memory_growth: float) -> list[str]:
        """Everything that is not as it must be."""
        found = [f"wrong: {wrong}" for wrong in self.tally.wrong[:10]] + [f"hung: {hung}" for hung in self.tally.hung]
        if self.engine["pages_free"] != self.engine["pages"] or self.engine["rows_running"]:
            found.append(f"the engine still holds something: {self.engine}")
        if self.engine["faults"]:
            found.append(f"{self.engine['faults']:.0f} steps failed")
        # Who left at once may never have been heard.
        if not self.tally.sent - self.tally.left <= self.answered <= self.tally.sent:
            found.append(f"the adapter counted {self.answered:.0f} requests, the clients {self.tally.sent}")
        for name, after in self.after.items():
            before = self.before[name]
            if after.files > before.files + 2 or after.threads > before.threads + 8:
                found.append(f"{name} held {before} before and {after} after")
            if self.growth[name] > memory_growth:
                found.append(f"{name} grew by {self.growth[name]:.1%}")
        return found

    def table(self) -> str:
        tally = self.tally
        rows = {
            "requests": f"{tally.sent} in {self.seconds:.0f} s",
            "right answers": ", ".join(f"{count} {how}" for how, count in sorted(tally.right.items())),
            "refused as they must be": str(sum(tally.refused.values())),
            "clients that left": str(tally.left),
            "wrong, hung": f"{len(tally.wrong)}, {len(tally.hung)}",
            "tokens generated": f"{self.engine['generated_tokens']:.0f}",
            "preemptions, failed steps": f"{self.engine['preemptions']:.0f}, {self.engine['faults']:.0f}",
            "pages free at the end": f"{self.engine['pages_free']:.0f} of {self.engine['pages']:.0f}",
        }
        for name, after in self.after.items():
            before = self.before[name]
            rows[name] = (
                f"{after.rss / 1e6:.0f} MB ({self.growth[name]:+.2%} since the warm-up), "
                f"files {before.files} to {after.files}, threads {before.threads} to {after.threads}"
            )
        return "\n".join(f"{name:26}{value}" for name, value in rows.items())


@contextmanager
def stack(folder: Path) -> Iterator[tuple[Service, Service]]:
    """A Truss with a tiny Mistral, and an adapter before it."""
    weights = folder / "weights"
    write_tiny_mistral(weights)
    truss_port, port = free_port(), free_port()
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(weights)}
    image = assemble(REPOSITORY, folder / "image")
    with start_truss(image, truss_port, folder, environment=environment) as truss:
        wait_truss(truss, truss_port, LOAD_SECONDS)
        settings = {"models": {"tiny": {"url": truss_url(truss_port)}}, "observe": {"access_log": "off"}}
        with start_adapter(settings, port, folder) as adapter:
            wait_adapter(adapter, port)
            yield Service(truss, truss_port), Service(adapter, port)


class Watch:
    """Samples the memory of processes while the `async with` block runs."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        self._samples: dict[str, list[int]] = {name: [] for name in processes}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _sample(self) -> None:
        while True:
            for name, process in self._processes.items():
                self._samples[name].append(process.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    def growth(self) -> dict[str, float]:
        """From the warm-up's end to the run's, each the median of a tenth of the samples."""
        return {name: _growth(samples) for name, samples in self._samples.items()}


def _growth(samples: list[int]) -> float:
    tenth = max(1, len(samples) // 10)
    begin = min(len(samples) // 2, round(WARM_UP / SAMPLE_SECONDS))
    return statistics.median(samples[-tenth:]) / statistics.median(samples[begin : begin + tenth]) - 1


async def soak(truss: Service, adapter: Service, minutes: float, seed: int = 1) -> Report:
    server = psutil.Process(truss.process.pid)
    engine_process = next(child for child in server.children() if "truss_model.worker" in child.cmdline())
    processes = {"Truss": server, "engine": engine_process, "adapter": psutil.Process(adapter.process.pid)}
    async with _connect(adapter) as client:
        traffic = Traffic(client, seed)
        await traffic.learn()
        await traffic.run(CLIENTS, time.monotonic() + 5)  # pools, caches and threads come into being
    before = await _at_rest(truss, processes)
    started = time.monotonic()
    async with _connect(adapter) as traffic.client, Watch(processes) as watch:
        await traffic.run(CLIENTS, started + 60 * minutes)
    seconds = time.monotonic() - started
    after = await _at_rest(truss, processes)
    engine, answered = await engine_counts(truss), await _answered(adapter)
    return Report(traffic.tally, seconds, before, after, watch.growth(), engine, answered)


def _connect(adapter: Service) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url=f"{adapter.url}/v1", max_retries=0, timeout=180)


async def _at_rest(truss: Service, processes: dict[str, psutil.Process]) -> dict[str, Usage]:
    """What the processes hold once nothing runs and no connection is left but those they listen on."""
    await until(truss, lambda counts: counts["rows_running"] == 0 and counts["requests_waiting"] == 0)
    end = time.monotonic() + REST_SECONDS
    while left := [c for p in processes.values() for c in p.net_connections("inet") if c.status != psutil.CONN_LISTEN]:
        assert time.monotonic() < end, left
        await asyncio.sleep(0.1)
    return {name: Usage(p.memory_info().rss, p.num_fds(), p.num_threads()) for name, p in processes.items()}


async def _answered(adapter: Service) -> float:
    """Requests that the adapter counted, whatever became of them."""
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{adapter.url}/metrics", timeout=30)).text.splitlines()
    counted = (line for line in lines if line.startswith("bridge_requests_total{") and "chat.completions" in line)
    return sum(float(line.rpartition(" ")[2]) for line in counted)


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--memory-growth", type=float, default=0.01, help="what is allowed after the warm-up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder)) as (truss, adapter):
        print(f"-- mixed traffic of {CLIENTS} clients for {options.minutes:g} minutes", flush=True)
        report = asyncio.run(soak(truss, adapter, options.minutes))
    print(report.table())
    if faults := report.faults(options.memory_growth):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
