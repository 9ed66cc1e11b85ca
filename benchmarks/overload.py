"""Ten times more requests than can be served: what is still answered, how soon the others are refused.

`python -m benchmarks.overload [--rows 8] [--queue 8] [--tokens 64] [--seconds 30] [--times 10]
[--rounds 3]`
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cores import children_on, split
from benchmarks.figures import medians, quantile
from benchmarks.open_loop import Offer, Outcome
from benchmarks.report import Report, run_folder, say, table
from benchmarks.targets import READY_SECONDS, REPOSITORY
from scripts.assemble import assemble
from scripts.interrupt import exit_on_signals
from scripts.process import free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss

MODEL = "demo"
QUEUE_SECONDS = 10.0
RAMP = 5.0  # seconds until rows and queue are as full as they will be
REFUSED_WITHIN = 0.1
COLUMNS = (
    "refused by",
    "offered/s",
    "answered",
    "refused",
    "other",
    "goodput tok/s",
    "of capacity",
    "429 p50 ms",
    "p95",
    "max",
    "TTFT p95 s",
)


@dataclass(frozen=True, slots=True)
class Case:
    """`model`: the adapter's settings of it. By default it tries a refused request again, which hides refusals."""

    refused_by: str
    model: dict[str, Any]


def cases(rows: int, queue: int) -> list[Case]:
    once = {"retries": {"attempts": 0}}
    return [Case("Truss", once), Case("adapter", {**once, "concurrency": rows + queue})]


@contextmanager
def truss(run_dir: Path, rows: int, queue: int) -> Iterator[str]:
    """The predict URL of the real server, with limits that are reached soon."""
    image, port = assemble(REPOSITORY, run_dir / "image"), free_port()
    environment = {
        "TRUSS_MODEL_ID": MODEL,
        "TRUSS_MODEL_ENGINE_MAX_ROWS": str(rows),
        "TRUSS_MODEL_ENGINE_MAX_QUEUE": str(queue),
        "TRUSS_MODEL_ENGINE_MAX_QUEUE_SECONDS": str(QUEUE_SECONDS),
    }
    measured, others = split()
    with children_on(measured):
        server = start_truss(image, port, run_dir, environment=environment)
    with server, children_on(others):
        wait_truss(server, port, READY_SECONDS)
        yield truss_url(port)


@contextmanager
def adapter(run_dir: Path, url: str, model: dict[str, Any]) -> Iterator[int]:
    port = free_port()
    settings = {"models": {MODEL: {"url": url, **model}}, "observe": {"access_log": "off"}}
    with start_adapter(settings, port, run_dir) as server:
        wait_adapter(server, port)
        yield port


def offered(offer: Offer) -> list[Outcome]:
    """What became of the requests, made by a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.open_loop", json.dumps(asdict(offer))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]


def tokens_per_second(outcomes: Sequence[Outcome], tokens: int, begin: float, end: float) -> float:
    """Of whole answers, within the interval; an answer's tokens are spread evenly from its first to its last."""
    total = 0.0
    for outcome in outcomes:
        if outcome.whole and outcome.first is not None:
            within = min(outcome.ended, end) - max(outcome.first, begin)
            total += tokens * max(0.0, within) / (outcome.ended - outcome.first)
    return total / (end - begin)


def result(outcomes: Sequence[Outcome], offer: Offer, capacity: float) -> dict[str, float]:
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    answered = [outcome for outcome in outcomes if outcome.whole]
    waits = [outcome.told - outcome.sent for outcome in refused]
    firsts = [outcome.first - outcome.sent for outcome in answered if outcome.first is not None]
    goodput = tokens_per_second(outcomes, offer.tokens, RAMP, offer.seconds)
    return {
        "offered_per_second": len(outcomes) / offer.seconds,
        "answered": len(answered),
        "refused": len(refused),
        "neither": len(outcomes) - len(answered) - len(refused),
        "goodput_tokens_per_second": goodput,
        "goodput_of_capacity": goodput / capacity,
        "refusal_p50_ms": quantile(waits, 0.5) * 1e3,
        "refusal_p95_ms": quantile(waits, 0.95) * 1e3,
        "refusal_max_ms": max(waits, default=0.0) * 1e3,
        "refused_within_100_ms": sum(wait <= REFUSED_WITHIN for wait in waits) / max(1, len(waits)),
        "refused_with_retry_after": sum(outcome.retry_after is not None for outcome in refused) / max(1, len(refused)),
        "ttft_p95_s": quantile(firsts, 0.95),
        "ttft_max_s": max(firsts, default=0.0),
        "queue_limit_s": QUEUE_SECONDS,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    run_dir = run_folder()
    found: dict[str, list[dict[str, float]]] = {}
    nonces = itertools.count(step=10)
    with truss(run_dir, options.rows, options.queue) as url:
        for number in range(options.rounds):
            for case in cases(options.rows, options.queue):
                say(f"round {number + 1} of {options.rounds}: the {case.refused_by} refuses")
                with adapter(run_dir, url, case.model) as port:
                    found.setdefault(case.refused_by, []).append(_measure_case(options, port, next(nonces)))
    return {name: {"result": _together(rounds), "rounds": rounds} for name, rounds in found.items()}


def _together(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians, and of what is a maximum the greatest."""
    return medians(rounds) | {key: max(one[key] for one in rounds) for key in rounds[0] if "_max_" in key}


def _measure_case(options: argparse.Namespace, port: int, nonce: int) -> dict[str, float]:
    """Capacity before and after: a machine whose speed drifts would judge the load between them wrongly."""
    full = options.rows + options.queue // 2  # nobody is refused, and no row waits for its next request

    def closed(seconds: float, nonce: int) -> float:
        offer = Offer(port, MODEL, options.tokens, seconds, clients=full, nonce=nonce)
        return tokens_per_second(offered(offer), options.tokens, RAMP, seconds)

    say("capacity: every row full, a few requests waiting")
    before = closed(options.seconds / 2 + RAMP, nonce)
    rate = options.times * before / options.tokens
    say(f"{before:.0f} tokens/s; now {rate:.1f} requests/s for {options.seconds:g} s")
    offer = Offer(port, MODEL, options.tokens, options.seconds, rate=rate, nonce=nonce + 1)
    outcomes = offered(offer)
    capacity = (before + closed(options.seconds / 2 + RAMP, nonce + 2)) / 2
    return {"capacity_tokens_per_second": capacity, **result(outcomes, offer, capacity)}


def main() -> None:
    exit_on_signals()  # and so stop what was started
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--times", type=float, default=10.0, help="the capacity")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = measure(options)
    results = {name: held["result"] for name, held in found.items()}
    rows = [
        [
            name,
            one["offered_per_second"],
            one["answered"],
            one["refused"],
            one["neither"],
            one["goodput_tokens_per_second"],
            one["goodput_of_capacity"],
            one["refusal_p50_ms"],
            one["refusal_p95_ms"],
            one["refusal_max_ms"],
            one["ttft_p95_s"],
        ]
        for name, one in results.items()
    ]
    table(f"{options.times:g} times the capacity of {options.rows} rows, queue of {options.queue}", COLUMNS, rows)
    Report("overload").add("overload", {**vars(options), "refused_by": found})


if __name__ == "__main__":
    main()
