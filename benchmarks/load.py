"""Closed loops against any OpenAI-compatible server: N clients, each with its next request as soon as it has an answer.

`python -m benchmarks.load URL MODEL [--clients 1,4,16] [--tokens 64] [--prompt short|long] [--pid N]`
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.client import Answer, ChatClient
from benchmarks.figures import Figures, figures
from benchmarks.process_tree import ProcessTree
from benchmarks.prompts import PromptLength, question
from benchmarks.report import table

Ask = Callable[[int], Awaitable[Answer]]
COLUMNS = ("tok/s", "TTFT p50", "p95", "gap p50", "p95 ms", "CPU ms/tok", "peak MB")


@dataclass(frozen=True, slots=True)
class Case:
    """`requests` in all, of which `clients` at a time."""

    clients: int
    requests: int
    tokens: int
    prompt: PromptLength = "short"

    @property
    def name(self) -> str:
        return f"{self.clients} x {self.tokens}" + (" long" if self.prompt == "long" else "")


async def closed_loop(ask: Ask, clients: int, requests: int) -> list[Answer]:
    """`ask(i)` for i below `requests`, never more than `clients` at once. The first failure ends it."""
    numbers = iter(range(requests))
    answers: list[Answer] = []

    async def one_client() -> None:
        for number in numbers:
            answers.append(await ask(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())
    return answers


async def run_case(client: ChatClient, case: Case, tree: ProcessTree | None, nonce: int) -> Figures:
    """`nonce`: another one gives other prompts of the same length."""

    async def ask(number: int) -> Answer:
        return await client.ask(question(nonce * 10_000 + number, case.prompt), case.tokens)

    before = tree.cpu_seconds() if tree else 0.0
    answers = await closed_loop(ask, case.clients, case.requests)
    cpu = tree.cpu_seconds() - before if tree else 0.0
    return figures(answers, cpu, tree.peak_rss_mb() if tree else 0.0)


def cells(figures: Figures) -> list[object]:
    """In the order of COLUMNS."""
    f = figures
    return [f.tokens_per_second, f.ttft_p50, f.ttft_p95, f.gap_p50, f.gap_p95, f.cpu_ms_per_token, f.peak_rss_mb]


@asynccontextmanager
async def connected(url: str, model: str, *, forced: bool) -> AsyncIterator[ChatClient]:
    """A client whose server has answered once: what is made at the first request is made."""
    async with ChatClient(url, model, forced=forced) as client:
        await client.ask(question(int(time.time()), "short"), 4)
        yield client


async def _main(options: argparse.Namespace) -> None:
    tree = ProcessTree([options.pid]) if options.pid else None
    rows: list[Sequence[object]] = []
    async with connected(options.url, options.model, forced=options.ignore_eos) as client:
        for clients in map(int, options.clients.split(",")):
            case = Case(clients, max(clients, options.requests), options.tokens, options.prompt)
            rows.append([case.name, *cells(await run_case(client, case, tree, time.time_ns() % 100_000))])
    table(f"{options.url} {options.model}", ("clients x tokens", *COLUMNS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--requests", type=int, default=4, help="at least so many a case")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", choices=("short", "long"), default="short")
    parser.add_argument("--ignore-eos", action="store_true", help="the server knows it; answers get their full length")
    parser.add_argument("--pid", type=int, help="of the server, for CPU time and memory")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
