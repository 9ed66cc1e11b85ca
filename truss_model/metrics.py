"""The engine's counts and times and how its start went, beside the Truss server's own at GET /metrics/.

Made when scraped. docs/metrics.md maps the names to those of vLLM and of the Gateway API inference extension.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from truss_model.engine.histogram import Distribution
from truss_model.engine.stats import Attempt, EngineStats

PREFIX = "truss_model_"
NOW = {
    "rows_running": "Answers that get a token in every step.",
    "requests_waiting": "Requests in the queue.",
    "pages_free": "Pages of the KV cache that no running row holds.",
    "pages_total": "Pages of the KV cache.",
    "page_tokens": "Tokens of a page of the KV cache.",
}
SINCE_START = {
    "steps": "Forwards of the model.",
    "prefill_tokens": "Prompt tokens computed.",
    "cached_tokens": "Prompt tokens taken from the prefix cache.",
    "generated_tokens": "Tokens generated.",
    "preemptions": "Rows put back into the queue for lack of pages.",
    "faults": "Steps that failed.",
}
DISTRIBUTIONS = {
    "request_queue_time_seconds": "From a request's arrival at the engine until it leaves the queue.",
    "time_to_first_token_seconds": "From a request's arrival at the engine to the first token of each of its answers.",
    "inter_token_latency_seconds": "Between two tokens of an answer, as the engine makes them.",
    "e2e_request_latency_seconds": "From a request's arrival at the engine to the end of its last answer.",
    "request_prompt_tokens": "Prompt tokens of a request.",
    "request_generation_tokens": "Tokens generated for an answer.",
    "step_tokens": "Tokens, of prompts and answers, in a forward of the model.",
    "step_rows": "Rows in a forward of the model.",
    "step_pages_used_ratio": "Share of the KV cache's pages that running rows hold, at the end of each step.",
}


class EngineCollector(Collector):
    """One scrape is one call of each of the three.

    attempts: the ways to run the model that were tried at the last start; the last one serves.
    """

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        attempts: Callable[[], Sequence[Attempt]],
        distributions: Callable[[], Mapping[str, Distribution]],
    ) -> None:
        self._stats = stats
        self._attempts = attempts
        self._distributions = distributions

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for count, value in stats._asdict().items():
            name = f"{PREFIX}{count.removesuffix('_total')}"  # a gauge must not be called _total
            if count in NOW:
                yield GaugeMetricFamily(name, NOW[count], value=float(value))
            else:
                yield CounterMetricFamily(name, SINCE_START[count], value=float(value))
        used = 1 - stats.pages_free / stats.pages_total if stats.pages_total else 0.0
        yield GaugeMetricFamily(f"{PREFIX}pages_used_ratio", "Share of the pages that running rows hold.", value=used)
        for name, found in self._distributions().items():
            ends = [*map(floatToGoString, found.bounds), "+Inf"]
            buckets = list(zip(ends, map(float, accumulate(found.counts)), strict=True))
            yield HistogramMetricFamily(f"{PREFIX}{name}", DISTRIBUTIONS[name], buckets=buckets, sum_value=found.total)
        yield from self._start()

    def _start(self) -> Iterator[Metric]:
        outcome = GaugeMetricFamily(
            "truss_model_start", "Ways to run the model that were tried: 1 for the one that serves.",
            labels=["rung", "outcome", "detail"],
        )  # fmt: skip
        gap = GaugeMetricFamily(
            "truss_model_self_check_gap", "Distance of log-probabilities to the untouched model's.", labels=["rung"]
        )
        for attempt in self._attempts():
            outcome.add_metric([attempt.rung, attempt.outcome, attempt.detail], float(attempt.outcome == "serves"))
            if attempt.gap is not None:
                gap.add_metric([attempt.rung], attempt.gap)
        yield outcome
        yield gap

    def describe(self) -> list[Metric]:
        return []  # so that registering does not ask for values


def export(
    stats: Callable[[], EngineStats],
    attempts: Callable[[], Sequence[Attempt]] = tuple,
    distributions: Callable[[], Mapping[str, Distribution]] = dict,
    registry: CollectorRegistry = REGISTRY,
) -> None:
    registry.register(EngineCollector(stats, attempts, distributions))
