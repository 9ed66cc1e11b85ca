"""Answers of a load -> the figures of a table's row. Pure arithmetic."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from benchmarks.client import Answer


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in milliseconds. `gap`: between two pieces of text of one answer, a piece being one token or some."""

    tokens_per_second: float
    ttft_p50: float
    ttft_p95: float
    gap_p50: float
    gap_p95: float
    cpu_ms_per_token: float
    peak_rss_mb: float
    tokens: int
    requests: int
    seconds: float


def figures(answers: Sequence[Answer], cpu_seconds: float, peak_rss_mb: float) -> Figures:
    """From the first request sent to the last answer ended."""
    seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    firsts = [answer.first for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps]
    return Figures(
        tokens_per_second=tokens / seconds,
        ttft_p50=quantile(firsts, 0.5) * 1e3,
        ttft_p95=quantile(firsts, 0.95) * 1e3,
        gap_p50=quantile(gaps, 0.5) * 1e3,
        gap_p95=quantile(gaps, 0.95) * 1e3,
        cpu_ms_per_token=cpu_seconds / tokens * 1e3,
        peak_rss_mb=peak_rss_mb,
        tokens=tokens,
        requests=len(answers),
        seconds=seconds,
    )


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest rank; 0 where there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))] if ordered else 0.0


def median_figures(rounds: Sequence[Figures]) -> Figures:
    """Field by field."""
    values = {f.name: statistics.median(getattr(one, f.name) for one in rounds) for f in fields(Figures)}
    return Figures(**values)


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of rounds with the same figures, figure by figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
