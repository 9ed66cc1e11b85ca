"""Two upstreams behind the adapter, one of them killed under load: what is lost, and when it is used again.

`python -m benchmarks.upstreams [--rounds 3] [--rate 50]`

The upstreams are mock_upstream's processes, which wait a while before an answer, so that there are requests that have
not begun. Streams that the killed one had begun are cut, which nobody can mend; every other request must be answered.
"""

import argparse
import asyncio
import re
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import aiohttp

from benchmarks.figures import medians, quantile
from benchmarks.open_loop import Load, Offer, Outcome
from benchmarks.proxies import Proxy, mock_upstream
from benchmarks.report import Report, run_folder, say, table
from scripts.interrupt import exit_on_signals
from scripts.process import free_port
from scripts.stack import start_adapter, wait_adapter

MODEL = "mock"
WAIT, PACE, TOKENS = 100, 20, 10  # milliseconds, milliseconds, tokens
KILLED, AWAY, AFTER = 10.0, 15.0, 30.0  # seconds: before the kill, until it is started again, from then on
WINDOW = 10.0  # seconds after the kill whose latencies are told
LOOK = 1.0  # seconds between two looks at who answers
SHARE = 0.4  # of the answers within a look: both have their half, but for chance
COLUMNS = (
    "requests",
    "whole",
    "cut",
    "lost",
    "p99 s",
    "p99 s after the kill",
    "p99 s of all after",
    "share again after s",
    "share of the last 10 s",
)
_ANSWERS = re.compile(r'^bridge_upstream_answers_total\{.*upstream="(\w)"\} (\S+)$', re.MULTILINE)


async def measure(rate: float, run_dir: Path, nonce: int) -> dict[str, float]:
    with ExitStack() as stack:
        ports = {name: free_port() for name in "ab"}
        upstreams = {name: ExitStack() for name in "ab"}
        servers: dict[str, Proxy] = {}
        for name, held in upstreams.items():
            stack.enter_context(held)
            servers[name] = held.enter_context(mock_upstream(run_dir, ports[name], WAIT))
        targets = [{"name": name, "url": f"http://127.0.0.1:{ports[name]}"} for name in "ab"]
        settings = {"models": {MODEL: {"upstreams": targets}}, "observe": {"access_log": "off"}}
        port = free_port()
        wait_adapter(stack.enter_context(start_adapter(settings, port, run_dir)), port)

        load = Load(Offer(port, MODEL, TOKENS, KILLED + AWAY + AFTER, rate, nonce=nonce, pace=PACE))
        looks = asyncio.create_task(look(port, KILLED + AWAY + AFTER))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(KILLED)
        killed = time.monotonic()
        servers["b"].server.signal(signal.SIGKILL)
        await asyncio.sleep(AWAY)
        upstreams["b"].close()
        await asyncio.to_thread(upstreams["b"].enter_context, mock_upstream(run_dir, ports["b"], WAIT))
        back = time.monotonic()
        await running
        return {**outcome(load.outcomes, killed - load.began), **returned(await looks, back)}


def outcome(outcomes: Sequence[Outcome], killed: float) -> dict[str, float]:
    """killed: seconds since the load began. cut: had begun and did not end; lost: ended without a byte of an answer."""

    def p99(begin: float, end: float) -> float:
        return quantile([one.ended - one.sent for one in outcomes if one.whole and begin <= one.sent < end], 0.99)

    whole = sum(one.whole for one in outcomes)
    cut = sum(one.status == 200 and not one.whole for one in outcomes)
    return {
        "requests": len(outcomes),
        "whole": whole,
        "cut": cut,
        "lost": len(outcomes) - whole - cut,
        "p99_before_s": p99(0.0, killed - 1.0),
        "p99_after_s": p99(killed - 1.0, killed + WINDOW),
        "p99_rest_s": p99(killed - 1.0, 1e9),
    }


def returned(looks: Sequence[tuple[float, dict[str, float]]], back: float) -> dict[str, float]:
    """Seconds from the start of the killed one until it has its share, and what it has at the end."""
    shares = []
    for (_, before), (at, after) in pairwise(looks):
        new = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in "ab"}
        shares.append((at, new["b"] / max(1.0, sum(new.values()))))
    again = next((at - back for at, share in shares if at > back and share >= SHARE), float("inf"))
    last = [share for _, share in shares[-round(10 / LOOK) :]]
    return {"share_again_s": again, "last_share": sum(last) / len(last)}


async def look(port: int, seconds: float) -> list[tuple[float, dict[str, float]]]:
    """(time, answers of each upstream so far), as the adapter's metrics tell."""
    looks = []
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        while (now := time.monotonic()) < end:
            async with session.get("/metrics") as response:
                found = _ANSWERS.findall(await response.text())
            looks.append((now, {name: float(count) for name, count in found}))
            await asyncio.sleep(LOOK)
    return looks


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    options = parser.parse_args()
    run_dir = run_folder()
    rounds = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        rounds.append(asyncio.run(measure(options.rate, run_dir, number)))
    found = medians(rounds)
    table("One of two upstreams is killed, and comes back", COLUMNS, [list(one.values()) for one in (*rounds, found)])
    Report("upstreams").add("killed", {**vars(options), "rounds_found": rounds, "result": found})


if __name__ == "__main__":
    main()
