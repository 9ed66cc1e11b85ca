"""Rounds of every case over every server, interleaved, and what becomes of them: medians, ratios, a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figures import Figures, median_figures
from benchmarks.in_process import InProcess
from benchmarks.load import COLUMNS, Case, cells, connected, run_case
from benchmarks.report import say, table
from benchmarks.targets import Target

Runner = Target | InProcess


@dataclass(slots=True)
class Rounds:
    """What was measured: server -> case -> one entry a round."""

    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)

    def add(self, server: str, case: Case, measured: Figures) -> None:
        self.figures.setdefault(server, {}).setdefault(case.name, []).append(measured)

    def median(self, server: str, case: str) -> Figures | None:
        rounds = self.figures.get(server, {}).get(case)
        return median_figures(rounds) if rounds else None

    def as_dict(self) -> dict[str, Any]:
        return {
            server: {
                case: {"median": asdict(median_figures(rounds)), "rounds": [*map(asdict, rounds)]}
                for case, rounds in cases.items()
            }
            for server, cases in self.figures.items()
        }


async def run_rounds(plan: Mapping[str, Sequence[Case]], runners: Sequence[Runner], rounds: int) -> Rounds:
    """`plan`: server -> its cases. Only the server that is measured runs; the others are stopped meanwhile."""
    done = Rounds()
    for runner in runners:
        runner.pause()
    for number in range(rounds):
        for runner in runners:
            cases = plan.get(runner.name, ())
            if not cases:
                continue
            runner.resume()
            say(f"round {number + 1} of {rounds}: {runner.name}")
            for case, figures in zip(cases, await _run(runner, cases, number + 1), strict=True):
                done.add(runner.name, case, figures)
            runner.pause()
    for runner in runners:
        runner.resume()
    return done


async def _run(runner: Runner, cases: Sequence[Case], nonce: int) -> list[Figures]:
    if isinstance(runner, InProcess):
        return [runner.run(case, nonce * 100 + index) for index, case in enumerate(cases)]
    async with connected(runner.url, runner.model, forced=runner.forced) as client:
        return [await run_case(client, case, runner.tree, nonce * 100 + index) for index, case in enumerate(cases)]


def best_rival(done: Rounds, rivals: Sequence[str], case: str) -> tuple[str, Figures] | None:
    """The one with the most tokens a second in this case."""
    found = [(name, figures) for name in rivals if (figures := done.median(name, case)) is not None]
    return max(found, key=lambda pair: pair[1].tokens_per_second, default=None)


def ratios(done: Rounds, cases: Sequence[str], rivals: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Ours over HTTP against each rival; a rival with several settings counts with its best in each case."""
    result: dict[str, dict[str, Any]] = {}
    for rival, names in rivals.items():
        for case in cases:
            own, best = done.median("ours", case), best_rival(done, names, case)
            if own is None or best is None:
                continue
            result.setdefault(rival, {})[case] = {
                "against": best[0],
                "tokens_per_second": own.tokens_per_second / best[1].tokens_per_second,
                "ttft_p50": own.ttft_p50 / best[1].ttft_p50,
                "ttft_p95": own.ttft_p95 / best[1].ttft_p95,
                "gap_p50": own.gap_p50 / best[1].gap_p50,
            }
    return result


def print_tables(done: Rounds, cases: Sequence[str], against: Mapping[str, Mapping[str, Any]]) -> None:
    for case in cases:
        found = [(server, figures) for server in done.figures if (figures := done.median(server, case)) is not None]
        table(f"{case} tokens", ("server", *COLUMNS), [[server, *cells(figures)] for server, figures in found])
    keys = ("tokens_per_second", "ttft_p50", "ttft_p95", "gap_p50")
    rows = [
        [rival, case, found["against"], *(found[key] for key in keys)]
        for rival, cases_of in against.items()
        for case, found in cases_of.items()
    ]
    table("Ours / rival", ("rival", "case", "against", "tok/s", "TTFT p50", "TTFT p95", "gap p50"), rows)
