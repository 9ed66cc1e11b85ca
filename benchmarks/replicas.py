"""The model on Ray Serve: two replicas against one, the router that knows prefixes against Ray's own, a lost replica.

In the environment of `make test-fleet`: .venv-fleet/bin/python -m benchmarks.replicas --model FOLDER
[--only throughput routers losses]
FOLDER: weights as of the demo model. A cluster of three nodes on this machine; a replica computes on one core; the
client, Serve's proxy and the front share the cores with the replicas: what each takes is told.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

from benchmarks.figures import quantile
from benchmarks.report import Report, say, table
from tests.fleet.cluster import Fleet, deploy, running_fleet, until

PREDICT = "/v1/models/model:predict"
ROWS = 8  # of a replica at once, so that a replica is full with half of the clients and a larger batch helps nobody
CLIENTS, ANSWERS, TOKENS = 32, 2, 64
CHATS, TURNS, CHATS_AT_ONCE = 24, 4, 6
STREAMS, STREAM_TOKENS, SHORT_RATE, SHORT_TOKENS = 4, 400, 5.0, 2  # streams that outlive the loss
BEFORE, AFTER = 2.0, 8.0  # seconds of short requests around the loss
ENVIRONMENT = {
    "TRUSS_MODEL_ENGINE_MAX_ROWS": str(ROWS),
    "TRUSS_MODEL_ENGINE_MAX_QUEUE_SECONDS": "600",  # what waits is not refused
    "TRUSS_MODEL_ENGINE_KV_CACHE_BYTES": str(1 << 30),
}
Figures = dict[str, float]


def serve(fleet: Fleet, *, replicas: int = 2, affinity: bool = True) -> None:
    """Other replicas than those before: Serve takes every call for new code."""
    say(f"replicas: {replicas}, {'the prefix router' if affinity else 'the router of Ray'}")
    deploy(fleet.folder, ENVIRONMENT, min_replicas=replicas, max_replicas=replicas, affinity=affinity)
    until(lambda: fleet.running() == replicas)


async def throughput(fleet: Fleet) -> tuple[Figures, dict[str, float]]:
    """Tokens a second of CLIENTS that ask one question after another, all different; the cores that each part took."""
    async with aiohttp.ClientSession(fleet.url) as session:

        async def client(number: int) -> int:
            total = 0
            for turn in range(ANSWERS):
                body = fleet.body(f"{random.random()} {number}.{turn}?", max_tokens=TOKENS, ignore_eos=True)
                async with session.post(PREDICT, json=body) as response:
                    response.raise_for_status()
                    total += (await response.json())["usage"]["completion_tokens"]
            return total

        await each(ROWS, client)  # warm
        before, began = cpu_seconds(), time.perf_counter()
        tokens = sum(await each(CLIENTS, client))
        seconds = time.perf_counter() - began
    cores = {part: (used - before.get(part, 0.0)) / seconds for part, used in cpu_seconds().items()}
    return {"tokens_per_second": tokens / seconds, "seconds": seconds}, cores


async def conversations(fleet: Fleet) -> Figures:
    """Chats of several turns over a long text: what of their prefixes was cached, and the time to the first token."""
    chance = random.Random()  # no chat is in a cache already
    cached, possible, first = 0, 0, list[float]()
    room = asyncio.Semaphore(CHATS_AT_ONCE)
    async with aiohttp.ClientSession(fleet.url) as session:

        async def chat(number: int) -> None:
            nonlocal cached, possible
            words = " ".join(chance.choice(("river", "stone", "lamp", "north", "seven")) for _ in range(300))
            messages = [{"role": "user", "content": f"Chat {chance.random()}: {words}"}]
            known = 0
            for _ in range(TURNS):
                async with room:
                    answer = await stream(session, fleet.body("", messages=messages, max_tokens=16))
                if known:
                    first.append(answer.first - answer.asked)
                    cached += min(answer.usage["cached_tokens"], known)
                    possible += known
                known = answer.usage["prompt_tokens"]
                messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "Go on."}]

        await each(CHATS, chat)
    return {
        "hits_of_possible": cached / possible,
        "ttft_p50_s": quantile(first, 0.5),
        "ttft_p95_s": quantile(first, 0.95),
    }


async def loss(fleet: Fleet, lose: Callable[[], object]) -> Figures:
    """Streams that run and short requests at a fixed rate while a replica goes. In seconds after that:

    noticed: the error of the first stream or short request that it had begun; told: of the last. lost: what ended with
    no byte of an answer. answered: of the short requests that were asked before the notice and begun after it, the
    longest time from the notice to the first byte.
    """
    shorts = list[asyncio.Task[Streamed]]()
    async with aiohttp.ClientSession(fleet.url) as session:

        async def short(number: int) -> Streamed:
            return await stream(session, fleet.body(f"Short {number} {random.random()}", max_tokens=SHORT_TOKENS))

        async def long(number: int) -> Streamed:
            body = fleet.body(f"Long {number} {random.random()}", max_tokens=STREAM_TOKENS, ignore_eos=True)
            return await stream(session, body)

        streams = [asyncio.create_task(long(number)) for number in range(STREAMS)]
        began, lost = time.perf_counter(), 0.0
        while (now := time.perf_counter() - began) < BEFORE + AFTER:
            if not lost and now > BEFORE:
                lost = time.perf_counter()
                await asyncio.to_thread(lose)
            shorts.append(asyncio.create_task(short(len(shorts))))
            await asyncio.sleep(1 / SHORT_RATE)
        ends, answers = await asyncio.gather(*streams), await asyncio.gather(*shorts)
    cut = [end.ended for end in (*ends, *answers) if end.error and end.begun]
    noticed = min(cut, default=lost)
    waited = [answer.begun - noticed for answer in answers if answer.asked < noticed < answer.begun]
    return {
        "streams": STREAMS,
        "whole": sum(not end.error for end in ends),
        "short_requests": len(answers),
        "cut": len(cut),
        "lost": sum(bool(end.error and not end.begun) for end in (*ends, *answers)),
        "noticed_s": noticed - lost,
        "told_s": max(cut, default=lost) - lost,
        "waited": len(waited),
        "answered_s": max(waited, default=0.0),
    }


@dataclass(slots=True)
class Streamed:
    """Times as of perf_counter; `begun`: the first byte, `first`: the first token, 0 if none came.

    error: that of the stream's last event, or the status.
    """

    asked: float
    begun: float
    first: float
    ended: float
    text: str
    usage: dict[str, Any]
    error: str


async def stream(session: aiohttp.ClientSession, body: dict[str, Any]) -> Streamed:
    answer = Streamed(time.perf_counter(), 0.0, 0.0, 0.0, "", {}, "no end")
    async with session.post(PREDICT, json=body | {"stream": True}) as response:
        if response.status != 200:
            answer.error = str(response.status)
        async for line in response.content:
            event = orjson.loads(line) if line.strip() else {}
            answer.begun = answer.begun or (time.perf_counter() if response.status == 200 else 0.0)
            if event.get("event") == "delta":
                answer.first = answer.first or time.perf_counter()
                answer.text += event["text"]
            if event.get("event") in ("done", "error"):
                answer.usage, answer.error = event.get("usage", {}), event.get("message", "")
    answer.ended = time.perf_counter()
    return answer


async def each(count: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*(work(number) for number in range(count))))


def cpu_seconds() -> dict[str, float]:
    """Of this process, and of all that it has started by what they are."""
    used = dict[str, float]()
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times, words = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        part = "client" if process == me else _part(words)
        used[part] = used.get(part, 0.0) + times.user + times.system
    return used


def _part(words: str) -> str:
    names = {"truss_model.worker": "engines", ":model": "replicas", ":front": "front", "ProxyActor": "proxy"}
    return next((part for name, part in names.items() if name in words), "Ray itself")


def kill_replica(fleet: Fleet) -> None:
    os.kill(next(iter(fleet.replicas().values())), signal.SIGKILL)


async def throughputs(fleet: Fleet, report: Report) -> None:
    found: dict[str, tuple[Figures, dict[str, float]]] = {}
    for replicas in (1, 2):
        serve(fleet, replicas=replicas)
        found[str(replicas)] = await throughput(fleet)
    ratio = found["2"][0]["tokens_per_second"] / found["1"][0]["tokens_per_second"]
    load = {"clients": CLIENTS, "rows_of_a_replica": ROWS, "tokens_of_an_answer": TOKENS, "ratio": ratio}
    report.add("throughput", {**load, "replicas": {n: {**f, "cores": c} for n, (f, c) in found.items()}})
    parts = sorted({part for _, cores in found.values() for part in cores})
    rows = [[n, told["tokens_per_second"], *(cores.get(p, 0.0) for p in parts)] for n, (told, cores) in found.items()]
    table(f"Throughput: two are {ratio:.2f} times one", ("replicas", "tokens/s", *(f"cores: {p}" for p in parts)), rows)


async def routers(fleet: Fleet, report: Report) -> None:
    found: dict[str, Figures] = {}
    for name in ("prefix router", "Ray's router"):
        serve(fleet, affinity=name == "prefix router")
        found[name] = await conversations(fleet)
    report.add("routers", {"chats": CHATS, "turns": TURNS, "at_once": CHATS_AT_ONCE, "routers": found})
    columns = ("router", "hits of possible", "TTFT p50 s", "p95 s")
    table("Routers", columns, [[name, *figures.values()] for name, figures in found.items()])


async def losses(fleet: Fleet, report: Report) -> None:
    serve(fleet)
    found = {"replica, SIGKILL": await loss(fleet, lambda: kill_replica(fleet))}
    until(lambda: fleet.running() == 2)
    found["node, SIGKILL"] = await loss(fleet, lambda: fleet.cluster.remove_node(fleet.nodes[0], allow_graceful=False))
    report.add("losses", {"short_requests_per_second": SHORT_RATE, "losses": found})
    columns = tuple(name.replace("_", " ") for name in next(iter(found.values())))
    table("Losses", ("what is lost", *columns), [[name, *one.values()] for name, one in found.items()])


PARTS = {"throughput": throughputs, "routers": routers, "losses": losses}  # the last one loses a node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder of weights")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    report = Report("replicas")
    with running_fleet(options.model.resolve(), ENVIRONMENT, min_replicas=1, max_replicas=1) as fleet:
        for part in PARTS:
            if part in options.only:
                asyncio.run(PARTS[part](fleet, report))


if __name__ == "__main__":
    main()
