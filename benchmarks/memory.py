"""Whether the engine leaks: resident memory over 1,000 requests and 200 cancels, and the KV pages free at the end.

`python -m benchmarks.memory [--requests 1000] [--cancels 200]`
"""

import argparse
import asyncio
import os
import random

from benchmarks.client import Answer
from benchmarks.demo_engine import DemoEngine, demo_engine, greedy
from benchmarks.load import closed_loop
from benchmarks.process_tree import ProcessTree
from benchmarks.prompts import question
from benchmarks.report import Report, say, table

CLIENTS = 32
WARM_UP_REQUESTS = 200
TOKENS = 8


async def generate_many(demo: DemoEngine, requests: int, nonce: int) -> None:
    async def ask(number: int) -> Answer:
        return await demo.generate(demo.encode(question(nonce * 10_000 + number, "short")), greedy(TOKENS))

    await closed_loop(ask, CLIENTS, requests)


async def cancel_many(demo: DemoEngine, requests: int, draw: random.Random) -> None:
    """Each is dropped at a random moment: while it waits, in its prompt, or between two tokens."""

    async def cancelled(number: int) -> Answer:
        prompt = demo.encode(question(7_000_000 + number, "short"))
        generation = demo.engine.submit(prompt, greedy(64))
        try:
            async with asyncio.timeout(draw.uniform(0, 2)):
                async for _ in generation.outputs():
                    pass
        except TimeoutError:
            generation.cancel()
        return Answer(0.0)

    await closed_loop(cancelled, CLIENTS, requests)


def measure(requests: int, cancels: int) -> dict[str, float | bool]:
    tree = ProcessTree([os.getpid()])
    with demo_engine() as demo:
        say(f"{WARM_UP_REQUESTS} requests to warm up")
        asyncio.run(generate_many(demo, WARM_UP_REQUESTS, 1))
        warm = tree.rss_mb()
        say(f"{requests} requests")
        asyncio.run(generate_many(demo, requests, 2))
        after = tree.rss_mb()
        say(f"{cancels} cancels")
        asyncio.run(cancel_many(demo, cancels, random.Random(5)))
        asyncio.run(generate_many(demo, CLIENTS, 3))  # the cancels are through when later requests have been answered
        stats = demo.engine.stats()
        return {
            "rss_warm_mb": warm,
            "growth_mb_requests": after - warm,
            "growth_mb_cancels": tree.rss_mb() - after,
            "pages_total": stats.pages_total,
            "pages_free": stats.pages_free,
            "rows_running": stats.rows_running,
            "requests_waiting": stats.requests_waiting,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--cancels", type=int, default=200)
    options = parser.parse_args()
    result = {"requests": options.requests, "cancels": options.cancels, **measure(options.requests, options.cancels)}
    table("Memory of the engine", ("what", "value"), list(result.items()))
    Report("engine").add("memory", {"result": result})


if __name__ == "__main__":
    main()
