"""What the host's side costs: real Truss server, service and engine over a model whose forward costs nothing.

`python -m benchmarks.host [--before REV] [--rounds 3] [--seconds 6] [--step-ms 1] [--only plain-256,...] [--profile]`
--before also measures the commit REV, in turns. --profile adds the CPU time by stage, read by py-spy.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.commits import checked_out
from benchmarks.figures import medians
from benchmarks.host_stages import stages
from benchmarks.report import RESULTS, Report, run_folder, say, table
from benchmarks.targets import READY_SECONDS, REPOSITORY
from scripts.assemble import assemble
from scripts.interrupt import exit_on_signals
from scripts.process import ServerProcess, free_port
from scripts.stack import start_truss, wait_truss

FULL_VOCABULARY, SMALL_VOCABULARY = 49152, 512  # of the demo model's tokenizer; its bytes and shortest words
TOKENS = 512  # of an answer
WARM_UP = 3.0  # seconds
PY_SPY = Path(sys.executable).with_name("py-spy")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "minLength": 4000}}, "required": ["text"]}


@dataclass(frozen=True, slots=True)
class Case:
    """`streams` at once, each asking again when it has its answer. Chats and grammars need the whole vocabulary."""

    name: str
    streams: int
    body: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = SMALL_VOCABULARY


_FORMAT = {"type": "json_schema", "json_schema": {"name": "text", "schema": SCHEMA}}
CASES = [
    Case("plain-1", 1),
    Case("plain-64", 64),
    Case("plain-256", 256),
    Case("stop-64", 64, {"stop": ["never met", "nor this one"]}),
    Case("logprobs-64", 64, {"logprobs": True, "top_logprobs": 5}),
    Case("tools-64", 64, {"tools": [TOOL], "messages": [{"role": "user", "content": "Look"}]}, FULL_VOCABULARY),
    Case("sampling-64", 64, {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.2}),
    Case(
        "schema-64", 64, {"response_format": _FORMAT, "messages": [{"role": "user", "content": "x"}]}, FULL_VOCABULARY
    ),
]


@dataclass(frozen=True, slots=True)
class NullServer:
    """A Truss server over a model that costs nothing. `lateness`: how late its engine woke up, seconds by step."""

    process: ServerProcess
    port: int
    lateness: Path

    def pause(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def wait_idle(self) -> None:
        """Return when no row of an earlier case runs any more."""
        for _ in range(600):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics/", timeout=60) as response:
                if b"truss_model_rows_running 0.0" in response.read():
                    return
            time.sleep(0.1)
        raise RuntimeError("Rows of an earlier case still run after a minute.")


@contextmanager
def null_server(source: Path, run_dir: Path, vocabulary: int, step_ms: float) -> Iterator[NullServer]:
    """The image of the Truss in `source`, with benchmarks/null_model.py in the place of its model.py."""
    run_dir.mkdir(parents=True, exist_ok=True)
    image = assemble(source, run_dir / "image")
    code = Path(__file__).with_name("null_model.py").read_text()
    (image.app / "model" / "null_model.py").write_text(code)
    config = {**image.config, "model_class_filename": "null_model.py"}
    (image.app / "config.yaml").write_text(yaml.safe_dump(config))
    port, lateness = free_port(), run_dir / "lateness"
    environment = {
        "HOST_STEP_MS": str(step_ms),
        "HOST_VOCAB": str(vocabulary),
        "HOST_LATENESS": str(lateness),
        "TRUSS_MODEL_ENGINE_MAX_ROWS": "256",
        "TRUSS_MODEL_ENGINE_MAX_MODEL_LEN": "4096",
        "OMP_NUM_THREADS": "1",
    }
    with start_truss(image, port, run_dir, environment=environment) as process:
        wait_truss(process, port, READY_SECONDS)
        yield NullServer(process, port, lateness)


class Usage:
    """CPU seconds of the server's event loop, of its other threads and of its child processes."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        times = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        children = [child.cpu_times() for child in process.children(recursive=True)]
        self.loop = times.pop(pid)
        self.threads = sum(times.values())
        self.children = sum(times.user + times.system for times in children)


def measure(server: NullServer, case: Case, seconds: float, profile: Path | None) -> dict[str, float]:
    server.wait_idle()
    body = {"prompt": [100] * 16, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    if "messages" in case.body:
        del body["prompt"]
    asked = {
        "port": server.port,
        "streams": case.streams,
        "body": body | case.body,
        "warmup": WARM_UP,
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "benchmarks.host_client", json.dumps(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as client, ExitStack() as stack:
        if client.stdout is None:
            raise RuntimeError("The client has no pipe.")
        if not client.stdout.readline():
            raise RuntimeError(f"{case.name}: the client has ended. {server.process.last_lines()}")
        before, noted = Usage(server.process.pid), _noted(server.lateness)
        if profile is not None:
            stack.enter_context(_profiled(server.process.pid, seconds, profile))
        counted = json.loads(client.stdout.readline())
        after, late = Usage(server.process.pid), _lateness(server.lateness, noted)
    if counted["failures"]:
        raise RuntimeError(f"{case.name}: {counted['failures']} answers failed. {server.process.last_lines()}")
    tokens = max(counted["tokens"], 1)
    spent = {name: (getattr(after, name) - getattr(before, name)) / tokens * 1e6 for name in vars(after)}
    return {
        "tokens_per_second": counted["tokens"] / counted["seconds"],
        "server_us_per_token": sum(spent.values()),
        **{f"{name}_us_per_token": value for name, value in spent.items()},
        "client_us_per_token": counted["client_cpu_seconds"] / tokens * 1e6,
        "lines_per_token": counted["lines"] / tokens,
        "steps_per_second": len(late) / counted["seconds"],
        "late_p50_ms": float(np.quantile(late, 0.5)) * 1e3,
        "late_p95_ms": float(np.quantile(late, 0.95)) * 1e3,
    }


@contextmanager
def _profiled(pid: int, seconds: float, out: Path) -> Iterator[None]:
    """py-spy reads the stacks meanwhile; it slows the server down, so its rounds are not those of the figures."""
    command = [PY_SPY, "record", "--pid", str(pid), "--subprocesses", "--nonblocking"]
    command += ["--duration", str(int(seconds)), "--rate", "250", "--format", "raw", "--output", str(out), "--threads"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield


def _noted(file: Path) -> int:
    return int(np.memmap(file, np.float64, "r")[0])


def _lateness(file: Path, since: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    ring = np.memmap(file, np.float64, "r")
    steps = np.arange(since + 1, int(ring[0]) + 1) % (len(ring) - 1)
    return ring[1:][steps] if len(steps) else np.zeros(1)


COLUMNS = {
    "tokens_per_second": "tok/s",
    "server_us_per_token": "server us/tok",
    "loop_us_per_token": "loop",
    "threads_us_per_token": "threads",
    "children_us_per_token": "children",
    "client_us_per_token": "client",
    "lines_per_token": "lines/tok",
    "steps_per_second": "steps/s",
    "late_p50_ms": "late p50 ms",
    "late_p95_ms": "p95",
}


def run(options: argparse.Namespace) -> None:
    cases = [case for case in CASES if not options.only or case.name in options.only]
    report = Report("host", options.out)
    with ExitStack() as stack:
        sources = {"now": REPOSITORY}
        if options.before:
            sources = {"before": stack.enter_context(checked_out(options.before)), **sources}
        for vocabulary in sorted({case.vocabulary for case in cases}):
            alike = [case for case in cases if case.vocabulary == vocabulary]
            found = rounds(sources, alike, vocabulary, options)
            show(found, alike)
            for case in alike:
                report.add(case.name, {name: of[case.name] for name, of in found.items()})


def rounds(
    sources: dict[str, Path], cases: list[Case], vocabulary: int, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Source -> case -> its rounds and their medians."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {case.name: [] for case in cases} for name in sources
    }
    with ExitStack() as stack:
        servers = {}
        for name, source in sources.items():
            say(f"starting {name}, {vocabulary} tokens in the vocabulary")
            folder = run_folder() / "host" / name / "run"
            servers[name] = stack.enter_context(null_server(source, folder, vocabulary, options.step_ms))
            servers[name].pause()
        for number in range(options.rounds):
            for name, server in servers.items():
                server.resume()
                for case in cases:
                    say(f"round {number + 1} of {options.rounds}: {name}, {case.name}")
                    measured[name][case.name].append(measure(server, case, options.seconds, None))
                server.pause()
        for name, server in servers.items() if options.profile else ():
            server.resume()
            for case in cases:
                out = run_folder() / "host" / f"{name}-{case.name}.stacks"
                out.unlink(missing_ok=True)
                profiled = measure(server, case, options.seconds, out)
                share = stages(out)
                spent = [[stage, part, part * profiled["server_us_per_token"]] for stage, part in share.items()]
                table(f"{name}, {case.name}: where the CPU time is spent", ("stage", "share", "us/tok"), spent)
            server.pause()
        for server in servers.values():
            server.resume()
    return {
        name: {case: {"median": medians(found), "rounds": found} for case, found in of.items()}
        for name, of in measured.items()
    }


def show(found: dict[str, dict[str, Any]], cases: list[Case]) -> None:
    rows = [
        [f"{case.name} {name}", *(of[case.name]["median"][column] for column in COLUMNS)]
        for case in cases
        for name, of in found.items()
    ]
    table(f"Host, {os.cpu_count()} cores", ("case", *COLUMNS.values()), rows)
    if "before" in found:
        keys = ("tokens_per_second", "server_us_per_token", "late_p95_ms")
        ratios = [
            [case.name, *(found["now"][case.name]["median"][k] / found["before"][case.name]["median"][k] for k in keys)]
            for case in cases
        ]
        table("Now / before", ("case", "tok/s", "server us/tok", "late p95"), ratios)


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="REV", help="a commit to measure beside this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--step-ms", type=float, default=1.0, help="what a forward takes")
    parser.add_argument("--only", type=lambda text: text.split(","), help=",".join(case.name for case in CASES))
    parser.add_argument("--profile", action="store_true", help="CPU time by stage (needs py-spy)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    if options.profile and not PY_SPY.exists():
        parser.error("--profile needs py-spy: pip install py-spy")
    run(options)


if __name__ == "__main__":
    main()
