"""What limits in a store cost: a question to a real Redis, what it adds to the adapter's requests, a dead store.

`python -m benchmarks.shared_limits [--rounds 3] [--seconds 3] [--only questions added decided dead]`
It needs redis-server or valkey-server.
"""

import argparse
import asyncio
import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks import http_load, open_loop
from benchmarks.figures import medians, quantile
from benchmarks.proxies import CHAT, MODEL, mock_upstream
from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import REPOSITORY
from bridge_adapter.server.limit_store import LimitStore
from bridge_adapter.server.limits import LocalLimits
from bridge_adapter.server.shared_limits import SharedLimits
from bridge_adapter.settings import ClientKey, Store
from scripts.interrupt import exit_on_signals
from scripts.process import free_port
from scripts.stack import start_adapter, wait_adapter
from tests.adapter.server.redis_server import RedisServer

KEY = "sk-benchmark"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
PLENTY = 1_000_000_000  # a minute: nothing is refused
LIMITS = {"requests_per_minute": PLENTY, "tokens_per_minute": PLENTY, "concurrent_streams": PLENTY}
QUESTIONS, AT_ONCE = 4_000, (1, 16, 64)
RATES = (100.0, 300.0)  # requests a second, at random moments
STREAM_TOKENS = 2
DEAD_AT_ONCE, DEAD_LATER = (1, 64), 40
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
QUANTILES = ("p50 ms", "p95 ms", "most ms")
Figures = dict[str, float]


def spread(seconds: Sequence[float]) -> Figures:
    return {name: quantile(seconds, q) * 1e3 for name, q in zip(QUANTILES, (0.5, 0.95, 1.0), strict=True)}


async def questions(server: RedisServer) -> dict[str, Figures]:
    """A request's one question, with all three limits, and its return, by how many are asked at once."""
    found = {}
    store = LimitStore(Store(url=server.url, timeout=5.0))
    await store.start()

    async def client(count: int, times: list[float]) -> None:
        for _ in range(count):
            began = time.perf_counter()
            admission = await store.admit("bench", PLENTY, (PLENTY, 10), PLENTY)
            times.append(time.perf_counter() - began)
            store.end("bench", (PLENTY, 5), admission.lease)

    for at_once in AT_ONCE:
        times: list[float] = []
        cpu = time.process_time()
        await asyncio.gather(*(client(QUESTIONS // at_once, times) for _ in range(at_once)))
        found[f"{at_once} at once"] = {**spread(times), "our CPU ms": (time.process_time() - cpu) * 1e3 / len(times)}
    await store.close()
    return found


async def added(server: RedisServer, rounds: int, seconds: float, run_dir: Path) -> dict[str, Figures]:
    """The same load on one worker that counts in its memory and on one that counts in the store, in turns."""
    loads: dict[str, Callable[[int, int], list[float]]] = {
        **{f"{n} connections": lambda port, _, n=n: closed(port, n, seconds) for n in AT_ONCE},  # type: ignore[misc]
        **{f"{r:.0f} requests/s": lambda port, turn, r=r: opened(port, r, seconds, turn) for r in RATES},  # type: ignore[misc]
    }
    done: dict[str, list[Figures]] = {name: [] for name in loads}
    scripts = answers = 0
    with ExitStack() as stack:
        upstream = stack.enter_context(mock_upstream(run_dir))
        settings = {"in memory": None, "in the store": {"url_env": "BENCH_STORE", "timeout": 1.0}}
        ports = {
            name: adapter(stack, upstream.port, limited(store), server.url, run_dir) for name, store in settings.items()
        }
        for turn in range(rounds):
            for name, load in loads.items():
                say(f"round {turn + 1} of {rounds}: {name}")
                before = await server.scripts_run()
                without, with_store = [await asyncio.to_thread(load, port, turn) for port in ports.values()]
                scripts += await server.scripts_run() - before
                answers += len(with_store)
                done[name].append(difference(without, with_store))
    found = {name: medians(figures) for name, figures in done.items()}
    for figures in found.values():
        figures["scripts a request"] = scripts / answers
    return found


def difference(without: Sequence[float], with_store: Sequence[float]) -> Figures:
    figures: Figures = {}
    for name, q in (("p50", 0.5), ("p95", 0.95)):
        low, high = quantile(without, q) * 1e3, quantile(with_store, q) * 1e3
        figures |= {f"{name} without ms": low, f"{name} with ms": high, f"{name} added ms": high - low}
    return figures


def closed(port: int, connections: int, seconds: float) -> list[float]:
    """Seconds of each answer; every connection asks again when it has one."""
    load = http_load.Load(port, CHAT, MODEL, connections=connections, seconds=seconds, key=KEY, all=True)
    figures = measured("benchmarks.http_load", dataclasses.asdict(load))
    if figures["failures"]:
        raise SystemExit("a request failed")
    return list(figures["latencies"])


def opened(port: int, rate: float, seconds: float, turn: int) -> list[float]:
    """Seconds until the head of each stream; asked at random moments, the same ones for both."""
    offer = open_loop.Offer(port, MODEL, STREAM_TOKENS, seconds, rate, nonce=turn, key=KEY)
    outcomes = measured("benchmarks.open_loop", dataclasses.asdict(offer))
    if not all(outcome["whole"] for outcome in outcomes):
        raise SystemExit("a stream was not whole")
    return [outcome["told"] - outcome["sent"] for outcome in outcomes]


def measured(module: str, load: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", module, json.dumps(load)]
    return json.loads(subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout)


async def decided(server: RedisServer) -> dict[str, Figures]:
    """How long the first who ask are without a decision when the store is frozen or killed; timeout as by default."""
    found = {}
    client = msgspec.convert({"name": "bench", "sha256": DIGEST, **LIMITS}, ClientKey)
    for how in ("frozen", "killed"):
        for at_once in DEAD_AT_ONCE:
            await server.start()
            store = LimitStore(Store(url=server.url))
            await store.start()
            limits = SharedLimits(client, store, LocalLimits(client, time.monotonic), time.monotonic)

            async def ask(limits: SharedLimits = limits) -> float:
                began = time.perf_counter()
                async with limits.work(BODY, True):
                    return time.perf_counter() - began

            await ask()
            server.stop() if how == "killed" else server.freeze()
            first = await asyncio.gather(*(ask() for _ in range(at_once)))
            later = [await ask() for _ in range(DEAD_LATER)]
            found[f"{how}, {at_once} at once"] = {
                "first, most ms": max(first) * 1e3,
                "later, most ms": max(later) * 1e3,
            }
            server.stop()
            await store.close()
    return found


async def dead(server: RedisServer, run_dir: Path) -> dict[str, dict[str, float]]:
    """Requests while the store is gone, or accepts and never answers; timeout as by default."""
    found = {}
    cases = [(fail, how, n) for fail in ("open", "closed") for how in ("killed", "frozen") for n in DEAD_AT_ONCE]
    for fail, how, at_once in cases:
        await server.start()
        with ExitStack() as stack:
            upstream = stack.enter_context(mock_upstream(run_dir))
            case = limited({"url_env": "BENCH_STORE", "fail": fail})
            port = adapter(stack, upstream.port, case, server.url, run_dir)
            connector = aiohttp.TCPConnector(limit=0)
            headers = {"authorization": f"Bearer {KEY}"}
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers, connector=connector) as http:

                async def ask(http: aiohttp.ClientSession = http) -> tuple[float, int]:
                    began = time.perf_counter()
                    async with http.post(CHAT, json=BODY) as response:
                        await response.read()
                    return time.perf_counter() - began, response.status

                for _ in range(2):  # connections, to the upstream too
                    alive = await asyncio.gather(*(ask() for _ in range(at_once)))
                server.stop() if how == "killed" else server.freeze()
                first = await asyncio.gather(*(ask() for _ in range(at_once)))
                later = []
                for _ in range(DEAD_LATER):
                    later.append(await ask())
                    await asyncio.sleep(0.05)  # so that the store is tried again meanwhile
        server.stop()
        statuses = [status for _, status in (*first, *later)]
        found[f"fail {fail}, {how}, {at_once} at once"] = {
            "alive, most ms": max(seconds for seconds, _ in alive) * 1e3,
            "first, most ms": max(seconds for seconds, _ in first) * 1e3,
            "later, most ms": max(seconds for seconds, _ in later) * 1e3,
            "answered": statuses.count(200),
            "refused with 503": statuses.count(503),
        }
    return found


def limited(store: dict[str, Any] | None) -> dict[str, Any]:
    client = {"name": "bench", "sha256": DIGEST, **LIMITS}
    return {"mode": "list", "clients": [client], **({"store": store} if store else {})}


def adapter(stack: ExitStack, upstream: int, case: dict[str, Any], url: str, run_dir: Path) -> int:
    port = free_port()
    target = {"url": f"http://127.0.0.1:{upstream}/v1/models/model:predict"}
    settings = {"models": {MODEL: target}, "keys": case, "observe": {"access_log": "off"}}
    server = stack.enter_context(start_adapter(settings, port, run_dir, environment={"BENCH_STORE": url}))
    wait_adapter(server, port)
    return port


PARTS = {
    "questions": "A request's question to the store, in one process",
    "added": "What the store adds to a request",
    "decided": "The first decisions without the store, and later ones",
    "dead": "Requests while the store is away",
}


async def measure(options: argparse.Namespace, server: RedisServer, run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if {"questions", "added"} & {*options.only}:
        await server.start()
        if "questions" in options.only:
            found["questions"] = await questions(server)
        if "added" in options.only:
            found["added"] = await added(server, options.rounds, options.seconds, run_dir)
        server.stop()
    if "decided" in options.only:
        found["decided"] = await decided(server)
    if "dead" in options.only:
        found["dead"] = await dead(server, run_dir)
    return found


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    run_dir = run_folder()
    server = RedisServer(run_dir)
    try:
        found = asyncio.run(measure(options, server, run_dir))
    finally:
        server.stop()
    report = Report("shared_limits")
    for part, cases in found.items():
        columns = ("", *next(iter(cases.values())))
        table(PARTS[part], columns, [[case, *figures.values()] for case, figures in cases.items()])
        report.add(part, {"rounds": options.rounds, "seconds": options.seconds, "cases": cases})


if __name__ == "__main__":
    main()
