"""A fleet of 10 to 1,000 replicas in virtual time, routed by the adapter's own code: prefix hits, TTFT, losses.

`python -m benchmarks.fleet [--only fleets bounds losses choices] [--replicas 10 100 1000] [--chats 100000] [--load 5]
[--seed 1]`

Nothing here is measured but the time that one choice takes: how fast a replica is comes from estimates for an H100,
which benchmarks/replica_model.py states, and the chats from benchmarks/chat_traffic.py. docs/scale.md reads them.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from random import Random
from typing import Any

from benchmarks.chat_traffic import TURNS, make_chats
from benchmarks.figures import quantile
from benchmarks.fleet_routing import CELL, RULES, Fleet, Rule
from benchmarks.fleet_simulation import Loss, Outcome, Simulation
from benchmarks.replica_model import H100
from benchmarks.report import RESULTS, Report, say, table

RAMP = 0.4  # of the time in which chats begin; what is asked before is not counted
LOST_AT = 0.6
AWAY = 30.0  # seconds
AFTER = 10.0  # seconds after a loss of which the TTFT is told
LOSS_CHATS = 6_000
LOSS_REPLICAS = (10, 100)
BOUNDS = (1.25, 1.5, 2.0, 1000.0)  # the last is none
BOUND_CHATS = 10_000
BOUND_CASES = ((0.01, 5.0), (0.2, 5.0), (0.01, 12.0), (0.2, 12.0))  # share of one beginning, requests/s and replica
COLUMNS = ("replicas", "rule", "hits of possible", "of prompt", "TTFT p50 s", "p95", "p99", "most/average in flight")
BOUND_COLUMNS = ("one beginning", "requests/s", "bound", *COLUMNS[2:3], *COLUMNS[4:])
LOSS_COLUMNS = (
    "replicas",
    "rule",
    "streams cut",
    "asked again",
    "tokens computed again",
    "p99 before s",
    "p99 after s",
)


def run(replicas: int, rule: Rule, chats: int, load: float, seed: int) -> Outcome:
    """The time between the ramp and the last chat's beginning. load: requests a second and replica."""
    made = make_chats(chats, load * replicas / TURNS, seed)
    last = made[-1].began
    return Simulation(replicas, rule, made, H100, since=RAMP * last, until=last).run()


def run_with_loss(replicas: int, rule: Rule, load: float, seed: int) -> dict[str, Any]:
    """What the same chats cost more, to their ends, because one replica was lost for a while."""
    made = make_chats(LOSS_CHATS, load * replicas / TURNS, seed)
    at = LOST_AT * made[-1].began
    whole = Simulation(replicas, rule, made, H100).run()
    lossy = Simulation(replicas, rule, made, H100, [Loss(replicas // 2, at, AWAY)]).run()
    return loss_cost(whole, lossy, at)


def summary(outcome: Outcome) -> dict[str, Any]:
    """ttft in seconds."""
    return {
        "requests": len(outcome.ttft),
        "hits_of_possible": round(outcome.hits / outcome.possible, 4),
        "hits_of_prompt": round(outcome.hits / outcome.prompt, 4),
        "ttft_p50_s": round(quantile(outcome.ttft, 0.5), 4),
        "ttft_p95_s": round(quantile(outcome.ttft, 0.95), 4),
        "ttft_p99_s": round(quantile(outcome.ttft, 0.99), 4),
        "most_over_average_in_flight": round(sum(outcome.uneven) / len(outcome.uneven), 3),
    }


def loss_cost(whole: Outcome, lossy: Outcome, at: float) -> dict[str, Any]:
    """What the same chats cost more because one replica was lost `at` this time."""

    def p99(outcome: Outcome) -> float:
        times = [ttft for asked, ttft in zip(outcome.asked, outcome.ttft, strict=True) if at <= asked < at + AFTER]
        return round(quantile(times, 0.99), 4)

    return {
        "cut": lossy.cut,
        "retried": lossy.retried,
        "tokens_computed_again": whole.hits - lossy.hits,
        "ttft_p99_without_s": p99(whole),
        "ttft_p99_with_s": p99(lossy),
    }


def microseconds_a_choice(upstreams: int, rule: Rule, choices: int = 100, rounds: int = 5) -> float:
    """Time of one core for a choice in one pool without cells, the best round; the upstreams are busy by chance."""
    fleet = Fleet(upstreams, rule, lambda: 0.0, cell=upstreams)
    random = Random(0)
    for place in fleet.places:
        place.upstream.in_flight = random.randrange(10)
    keys = [random.randbytes(16) for _ in range(choices)]
    times = []
    for _ in range(rounds):
        began = time.process_time()
        for key in keys:
            fleet.choose(key, ())
        times.append(time.process_time() - began)
    return round(min(times) / choices * 1e6, 1)


def show(parts: Mapping[str, Any]) -> None:
    def flat(part: str, first: int = 0) -> list[list[object]]:
        runs = parts[part]["runs"]
        return [[n, rule, *list(one.values())[first:]] for n, rules in runs.items() for rule, one in rules.items()]

    if "fleets" in parts:
        table("Fleets in virtual time", COLUMNS, flat("fleets", 1))
    if "bounds" in parts:
        rows = [
            [v for name, v in one.items() if name not in ("requests", "hits_of_prompt")]
            for one in parts["bounds"]["runs"]
        ]
        table(f"{CELL} replicas, affinity with other bounds", BOUND_COLUMNS, rows)
    if "losses" in parts:
        table(f"One replica lost for {AWAY:g} s", LOSS_COLUMNS, flat("losses"))
    if "choices" in parts:
        rows = [[n, *rules.values()] for n, rules in parts["choices"]["microseconds"].items()]
        table("One choice, in microseconds", ("upstreams of a pool", *RULES), rows)


def draw(runs: Mapping[str, Any]) -> None:
    from benchmarks.plot import Bars, bar_plot

    panels: list[tuple[str, Bars]] = [
        (title, {rule: {n: rules[rule][name] for n, rules in runs.items()} for rule in RULES})
        for title, name in (
            ("prompt tokens found in a cache, of those possible", "hits_of_possible"),
            ("time to first token, p50, s", "ttft_p50_s"),
            ("time to first token, p99, s", "ttft_p99_s"),
        )
    ]
    bar_plot(panels, list(runs), RESULTS / "fleet.png", title="Simulated replicas, an estimated H100 each")


def fleets(report: Report, options: argparse.Namespace) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for replicas in options.replicas:
        for rule in RULES:
            say(f"{replicas} replicas, {rule}")
            outcome = run(replicas, rule, options.chats, options.load, options.seed)
            runs.setdefault(str(replicas), {})[rule] = summary(outcome)
            report.add("fleets", {**given(options), "runs": runs})
    draw(runs)


def bounds(report: Report, options: argparse.Namespace) -> None:
    """Affinity in one cell with other bounds, for traffic with and without a popular key."""
    runs: list[dict[str, Any]] = []
    for same, load in BOUND_CASES:
        made = make_chats(BOUND_CHATS, load * CELL / TURNS, options.seed, same)
        last = made[-1].began
        for bound in BOUNDS:
            say(f"one beginning {same:g}, {load:g} requests/s, bound {bound:g}")
            outcome = Simulation(CELL, "affinity", made, H100, since=RAMP * last, until=last, bound=bound).run()
            runs.append({"same": same, "load": load, "bound": bound, **summary(outcome)})
            report.add("bounds", {"replicas": CELL, "chats": BOUND_CHATS, "seed": options.seed, "runs": runs})


def losses(report: Report, options: argparse.Namespace) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for replicas in LOSS_REPLICAS:
        for rule in RULES:
            say(f"{replicas} replicas, {rule}, one of them lost")
            runs.setdefault(str(replicas), {})[rule] = run_with_loss(replicas, rule, options.load, options.seed)
            report.add(
                "losses", {**given(options), "chats": LOSS_CHATS, "away_s": AWAY, "after_s": AFTER, "runs": runs}
            )


def choices(report: Report, options: argparse.Namespace) -> None:
    found = {str(n): {rule: microseconds_a_choice(n, rule) for rule in RULES} for n in (10, CELL, 100, 1000)}
    report.add("choices", {"microseconds": found})


PARTS = {"fleets": fleets, "bounds": bounds, "losses": losses, "choices": choices}


def given(options: argparse.Namespace) -> dict[str, Any]:
    return {"chats": options.chats, "load": options.load, "seed": options.seed, "cell": CELL, "replica": asdict(H100)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--replicas", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=5.0, help="requests a second and replica")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = Report("fleet")
    for part in options.only:
        PARTS[part](report, options)
    show(json.loads(report.path.read_text())["parts"])


if __name__ == "__main__":
    main()
