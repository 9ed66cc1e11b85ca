"""What OpenAI's routes of the Truss cost above predict, for the same answers of the same server, asked in turns.

`python -m benchmarks.openai_routes [--firsts 100] [--rounds 7] [--streams 8] [--tokens 96] [--step-ms 8]`
--step-ms takes the model of benchmarks.host, whose every step lasts so long: what the ways cost is seen then, which
the scatter of the demo model's arithmetic on a busy machine hides.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.host import FULL_VOCABULARY, null_server
from benchmarks.process_tree import ProcessTree
from benchmarks.prompts import question
from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import READY_SECONDS, REPOSITORY
from scripts.assemble import assemble
from scripts.interrupt import exit_on_signals
from scripts.process import ServerProcess, free_port
from scripts.stack import start_truss, wait_truss


@dataclass(frozen=True, slots=True)
class Way:
    """`text`: what stands in every piece of the stream that holds text; `end`: in the last piece of a good stream."""

    name: str
    path: str
    text: bytes
    end: bytes


PREDICT = Way("predict", "/v1/models/model:predict", b'"event":"delta"', b'"event":"done"')
ROUTES = Way("OpenAI's routes", "/v1/chat/completions", b'"delta":{"content":', b"data: [DONE]")
WAYS = (PREDICT, ROUTES)


async def ask(session: aiohttp.ClientSession, way: Way, number: int, tokens: int) -> float:
    """Seconds to the first piece of text. Nothing is parsed, so that the client costs the same both ways."""
    body = {"messages": question(number, "short"), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    model = {"model": "demo"} if way is ROUTES else {}
    first, last, began = 0.0, b"", time.perf_counter()
    async with session.post(way.path, json={**body, **model, "stream": True}) as response:
        response.raise_for_status()
        async for piece in response.content.iter_any():
            if not first and way.text in piece:
                first = time.perf_counter() - began
            last = piece
    if way.end not in last:
        raise RuntimeError(f"The stream of {way.path} ended early.")
    return first


async def first_pieces(session: aiohttp.ClientSession, count: int) -> dict[str, float]:
    """Median milliseconds to the first text of a prompt that is cached."""
    seconds: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for number in range(-5, count):
        for way in WAYS if number % 2 else WAYS[::-1]:
            first = await ask(session, way, 1, 2)
            if number >= 0:
                seconds[way.name].append(first)
    return {name: statistics.median(firsts) * 1e3 for name, firsts in seconds.items()}


@dataclass(frozen=True, slots=True)
class Round:
    """All streams of one way. `cpu_ms`: of the Truss's processes, a token."""

    tokens_per_second: float
    cpu_ms: float


async def throughput(
    session: aiohttp.ClientSession, truss: ProcessTree, rounds: int, streams: int, tokens: int
) -> dict[str, list[Round]]:
    """Both ways have the same prompts, computed before."""
    done: dict[str, list[Round]] = {way.name: [] for way in WAYS}
    for number in range(-1, rounds):
        for way in WAYS if number % 2 else WAYS[::-1]:
            used, began = truss.cpu_seconds(), time.perf_counter()
            await asyncio.gather(*(ask(session, way, 100 + stream, tokens) for stream in range(streams)))
            took, made = time.perf_counter() - began, streams * tokens
            if number >= 0:
                done[way.name].append(Round(made / took, (truss.cpu_seconds() - used) / made * 1e3))
    return done


async def measure(
    port: int, truss: ProcessTree, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[Round]]]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(600)) as session:
        say("first pieces")
        firsts = await first_pieces(session, options.firsts)
        say("throughput")
        return firsts, await throughput(session, truss, options.rounds, options.streams, options.tokens)


def ratio(rounds: dict[str, list[Round]], figure: Callable[[Round], float]) -> float:
    """Of the routes to predict: the median over the rounds, in each of which both ways ran."""
    pairs = zip(rounds[ROUTES.name], rounds[PREDICT.name], strict=True)
    return statistics.median(figure(routes) / figure(predict) for routes, predict in pairs)


@contextmanager
def truss_server(step_ms: float | None) -> Iterator[tuple[ServerProcess, int]]:
    """The server and its port, over the demo model or one that costs nothing but its time."""
    run_dir = run_folder()
    if step_ms is not None:
        with null_server(REPOSITORY, run_dir / "routes", FULL_VOCABULARY, step_ms) as null:
            yield null.process, null.port
        return
    image, port = assemble(REPOSITORY, run_dir / "image"), free_port()
    with start_truss(image, port, run_dir, environment={"TRUSS_MODEL_ID": "demo"}) as truss:
        wait_truss(truss, port, READY_SECONDS)
        yield truss, port


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--firsts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--step-ms", type=float, help="what a step takes, of a model that computes nothing")
    options = parser.parse_args()
    with truss_server(options.step_ms) as (truss, port):
        firsts, rounds = asyncio.run(measure(port, ProcessTree([truss.pid]), options))
    figures = {
        way.name: {
            "ttft_ms": firsts[way.name],
            "tokens_per_second": statistics.median(one.tokens_per_second for one in rounds[way.name]),
            "cpu_ms_per_token": statistics.median(one.cpu_ms for one in rounds[way.name]),
        }
        for way in WAYS
    }
    columns = ("way", "TTFT ms", "tok/s", "CPU ms a token")
    table(
        f"{options.streams} streams of {options.tokens} tokens",
        columns,
        [[name, *figures[name].values()] for name in figures],
    )
    added = firsts[ROUTES.name] - firsts[PREDICT.name]
    speed, cpu = ratio(rounds, lambda one: one.tokens_per_second), ratio(rounds, lambda one: one.cpu_ms)
    say(f"added to the first piece: {added:.2f} ms; of predict's: {speed:.3f} tokens a second, {cpu:.3f} CPU a token")
    result = {"figures": figures, "added_ms": added, "tokens_per_second_ratio": speed, "cpu_ratio": cpu}
    Report("engine").add("openai_routes", {**vars(options), "result": result})


if __name__ == "__main__":
    main()
