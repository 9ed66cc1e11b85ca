"""What the adapter costs: ours, LiteLLM's proxy and bare nginx before an upstream with no think time, interleaved.

`python -m benchmarks.adapter [--quick] [--rounds 3] [--only starts,workers,requests,streams,paced,slow,growth]
[--before REV]`; --before puts the adapter of that commit in the rivals' place.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.commits import checked_out
from benchmarks.figures import medians
from benchmarks.http_load import Load
from benchmarks.plot import bar_plot
from benchmarks.proxies import CHAT, MODEL, Proxy, Starter, installed, litellm, mock_upstream, nginx, ours
from benchmarks.report import RESULTS, Report, run_folder, say, table
from scripts.interrupt import exit_on_signals

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = ("starts", "workers", "requests", "streams", "paced", "slow", "growth")
STARTERS: dict[str, Starter] = {"nginx": nginx, "LiteLLM": litellm, "ours": ours}
CONNECTIONS = (1, 16, 64)
CHUNKS = 100
JSON_FIGURES = ("requests_per_second", "latency_p50_ms", "latency_p99_ms", "failures")
Figures = dict[str, float]


class Bench:
    """The running services, the direct way first, and rounds of loads over them."""

    def __init__(self, proxies: Sequence[Proxy], rounds: int, seconds: float) -> None:
        self.proxies, self.rounds, self.seconds = proxies, rounds, seconds

    def named(self, name: str) -> Proxy:
        return next(proxy for proxy in self.proxies if proxy.name == name)

    def medians(self, loads: Mapping[str, Load], names: Sequence[str] | None = None) -> dict[str, dict[str, Figures]]:
        """Load -> service -> the median of the rounds, figure by figure."""
        done: dict[str, dict[str, list[Figures]]] = {name: {} for name in loads}
        for number in range(self.rounds):
            for proxy in self.proxies:
                if names is not None and proxy.name not in names:
                    continue
                say(f"round {number + 1} of {self.rounds}: {', '.join(loads)}: {proxy.name}")
                for name, load in loads.items():
                    done[name].setdefault(proxy.name, []).append(apply(load, proxy))
        return {
            name: {service: medians(rounds) for service, rounds in services.items()} for name, services in done.items()
        }


def apply(load: Load, proxy: Proxy) -> Figures:
    """One load in a process of its own, so that nothing here takes its time."""
    told = dataclasses.asdict(dataclasses.replace(load, port=proxy.port, key=proxy.key))
    command = [sys.executable, "-m", "benchmarks.http_load", json.dumps(told)]
    limit = load.seconds + load.chunks * load.pace / 1000 + 60
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=limit, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def load(**options: Any) -> Load:
    return Load(port=0, path=CHAT, model=MODEL, **options)


def requests(bench: Bench) -> dict[str, Any]:
    """JSON answers."""
    loads = {f"{count} connections": load(connections=count, seconds=bench.seconds) for count in CONNECTIONS}
    done = bench.medians(loads)
    print_services("JSON requests", done, JSON_FIGURES)
    return {"figures": done, "ratios": ratios(done, "requests_per_second")}


def streams(bench: Bench) -> dict[str, Any]:
    """Streams as fast as they go, and the time to the first chunk of one stream after another."""
    loads = {f"{n} connections": load(connections=n, seconds=bench.seconds, chunks=CHUNKS) for n in CONNECTIONS}
    done = bench.medians({**loads, "one after another": load(seconds=bench.seconds, requests=400, chunks=1)})
    print_services("Streams", done, ("chunks_per_second", "ttft_p50_ms", "ttft_p99_ms", "failures"))
    alone = done["one after another"]
    direct = alone["direct"]["ttft_p50_ms"]
    added = {name: found["ttft_p50_ms"] - direct for name, found in alone.items() if found["chunks"]}
    table("Added time to the first chunk, p50, 1 connection", ("service", "ms"), list(added.items()))
    return {"figures": done, "ratios": ratios(done, "chunks_per_second"), "added_ttft_p50_ms": added}


def paced(bench: Bench) -> dict[str, Any]:
    """64 streams, one chunk in 20 ms each: what a chunk loses on its way."""
    return on_the_way(bench, connections=64, chunks=200, pace=20)


def slow(bench: Bench) -> dict[str, Any]:
    """512 streams, one chunk in 200 ms each. LiteLLM is left out: it cannot keep up with 64."""
    return on_the_way(bench, ("direct", "nginx", "ours"), connections=512, chunks=25, pace=200)


def on_the_way(bench: Bench, names: Sequence[str] | None = None, **streams: Any) -> dict[str, Any]:
    """Begun one after another within a second, and all at once: then every chunk is due in the same millisecond."""
    title = f"{streams['connections']} streams, one chunk in {streams['pace']} ms, begun "
    loads = {
        title + "in a second": load(seconds=1.5, spread=1.0, **streams),
        title + "at once": load(seconds=0.5, **streams),
    }
    done = bench.medians(loads, names)
    return {"figures": done, "added_ms": {name: added_delay(name, found) for name, found in done.items()}}


def added_delay(title: str, done: Mapping[str, Figures]) -> dict[str, Figures]:
    """Against the median of the direct way: the difference of two high quantiles would hide what is added."""
    direct = done["direct"]["chunk_p50_ms"]
    keys = ("chunk_p50_ms", "chunk_p95_ms", "chunk_p99_ms")
    added = {name: {key: found[key] - direct for key in keys} for name, found in done.items()}
    rows = [[name, *(added[name][key] for key in keys), done[name]["chunks"], done[name]["requests"]] for name in done]
    table(f"{title}: added to each chunk, ms", ("service", "p50", "p95", "p99", "chunks", "whole streams"), rows)
    return added


def growth(bench: Bench, requests_sent: int = 50_000, streams_sent: int = 5_000) -> dict[str, Any]:
    """Resident memory of ours over many requests and streams, after a warm-up."""
    proxy = bench.named("ours")
    idle = proxy.tree.rss_mb()
    many, most = load(connections=16, seconds=120, requests=5_000), load(connections=64, seconds=120, chunks=CHUNKS)
    for warm in (many, dataclasses.replace(most, requests=500)):
        apply(warm, proxy)
    time.sleep(1)
    before = proxy.tree.rss_mb()
    failures = 0.0
    for heavy in (
        dataclasses.replace(many, requests=requests_sent),
        dataclasses.replace(most, requests=streams_sent),
    ):
        failures += apply(heavy, proxy)["failures"]
    time.sleep(1)
    after = proxy.tree.rss_mb()
    result = {"rss_idle_mb": idle, "rss_warm_mb": before, "rss_after_mb": after, "growth_mb": after - before}
    result |= {"requests": requests_sent, "streams": streams_sent, "failures": failures}
    table("Memory of ours", ("what", "value"), list(result.items()))
    return {"result": result}


def starts(run_dir: Path, upstream: Proxy, rounds: int) -> dict[str, Any]:
    """From the start of the process to its first good answer, and the memory it then has."""
    done: dict[str, dict[str, float]] = {}
    for name, start in STARTERS.items():
        seconds, memory = [], []
        for _ in range(1 if name == "LiteLLM" else rounds):
            with start(run_dir, upstream.port, 1) as proxy:
                seconds.append(proxy.start_seconds)
                time.sleep(1)
                memory.append(proxy.tree.rss_mb())
        done[name] = {"start_seconds": statistics.median(seconds), "rss_idle_mb": statistics.median(memory)}
    rows = [[name, *found.values()] for name, found in done.items()]
    table("Start", ("service", "seconds", "RSS idle MB"), rows)
    return {"figures": done}


def workers(run_dir: Path, upstream: Proxy, rounds: int) -> dict[str, Any]:
    """JSON answers of services with a worker for each core, as they are run where one is not enough."""
    count = os.cpu_count() or 1
    with ExitStack() as stack:
        running = [stack.enter_context(start(run_dir, upstream.port, count)) for start in STARTERS.values()]
        for proxy in running:  # a service answers as soon as its first worker does
            apply(load(connections=16, seconds=5), proxy)
        bench = Bench([upstream, *running], rounds, 2.5)
        done = bench.medians({f"16 connections, {count} workers": load(connections=16, seconds=bench.seconds)})
    print_services("JSON requests", done, JSON_FIGURES)
    return {"figures": done, "ratios": ratios(done, "requests_per_second")}


def ratios(done: Mapping[str, Mapping[str, Figures]], key: str) -> dict[str, dict[str, float]]:
    """Ours over each of the others."""
    return {
        load: {name: services["ours"][key] / found[key] for name, found in services.items() if found[key]}
        for load, services in done.items()
    }


def print_services(title: str, done: Mapping[str, Mapping[str, Figures]], keys: Sequence[str]) -> None:
    for name, services in done.items():
        base = services["ours"][keys[0]]
        rows = [
            [service, *(found[key] for key in keys), base / found[keys[0]] if found[keys[0]] else None]
            for service, found in services.items()
        ]
        table(f"{title}, {name}", ("service", *keys, "ours / it"), rows)


def plot(report: Report) -> None:
    """From what the parts have left in the report, if both are there."""
    if not {"requests", "streams"} <= report.parts.keys():
        return
    labels = [f"{count} connections" for count in CONNECTIONS]

    def bars(part: str, key: str) -> dict[str, dict[str, float]]:
        figures = report.parts[part]["figures"]
        names = figures[labels[0]]
        return {name: {label: figures[label][name][key] for label in labels} for name in names}

    panels = [
        ("JSON requests/s", bars("requests", "requests_per_second")),
        ("streamed chunks/s", bars("streams", "chunks_per_second")),
    ]
    bar_plot(panels, labels, report.path.with_suffix(".png"), title="Before a mock upstream on one machine", log=True)


ALONE = {"starts": starts, "workers": workers}  # these start their own services


def run(options: argparse.Namespace, run_dir: Path) -> None:
    report = Report("adapter", options.out)
    with ExitStack() as stack:
        upstream = stack.enter_context(mock_upstream(run_dir))
        for part, run_it in ALONE.items():
            if part in options.only:
                report.add(part, run_it(run_dir, upstream, options.rounds))
        rest = [part for part in options.only if part not in ALONE]
        if not rest:
            return
        starters: Mapping[str, Starter] = STARTERS if rest != ["growth"] else {"ours": ours}
        if options.before:
            source = stack.enter_context(checked_out(options.before))
            starters = {"before": functools.partial(ours, name="before", source=source), "ours": ours}
        elif options.quick:
            starters = {name: STARTERS[name] for name in there(run_dir)}
        running = [stack.enter_context(start(run_dir, upstream.port, 1)) for start in starters.values()]
        bench = Bench([upstream, *running], options.rounds, 1.0 if options.quick else 2.5)
        for part in rest:
            report.add(part, measure(part, bench, quick=options.quick))
        memory = {proxy.name: proxy.tree.rss_mb() for proxy in running}
        report.add("rss_after_all", {"result": memory})
    plot(report)
    say(f"figures in {report.path}")


def there(run_dir: Path) -> list[str]:
    """What the short form can use without installing anything."""
    missing = [name for name in ("nginx", "LiteLLM") if not installed(name, run_dir)]
    for name in missing:
        say(f"{name} is not here and is left out; the long form installs LiteLLM and asks for nginx")
    return [name for name in STARTERS if name not in missing]


def measure(part: str, bench: Bench, *, quick: bool) -> dict[str, Any]:
    if part == "growth":
        return growth(bench, 5_000, 500) if quick else growth(bench)
    return {"requests": requests, "streams": streams, "paced": paced, "slow": slow}[part](bench)


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute: one short round, fewer parts")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--before", metavar="REV", help="a commit to measure beside this one")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.only = options.only or (("requests", "streams", "paced") if options.quick else PARTS)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    run_dir = run_folder()
    options.out = options.out or (run_dir if options.quick or options.before else RESULTS)
    began = time.monotonic()
    run(options, run_dir)
    say(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
