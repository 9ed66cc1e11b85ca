"""The engine's counts for Prometheus, beside the Truss server's own at GET /metrics/. Asked for when scraped only."""

from collections.abc import Callable, Iterator
from dataclasses import fields

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from truss_model.engine.stats import EngineStats

NOW = {
    "rows_running": "Answers that get a token in every step.",
    "requests_waiting": "Requests in the queue.",
    "pages_free": "Pages of the KV cache that no running row holds.",
    "pages_total": "Pages of the KV cache.",
}
SINCE_START = {
    "steps": "Forwards of the model.",
    "prefill_tokens": "Prompt tokens computed.",
    "cached_tokens": "Prompt tokens taken from the prefix cache.",
    "generated_tokens": "Tokens generated.",
    "preemptions": "Rows put back into the queue for lack of pages.",
    "faults": "Steps that failed.",
}


class EngineCollector(Collector):
    """One scrape is one call of `stats`."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for field in fields(stats):
            # A gauge must not be called _total.
            name, value = f"truss_model_{field.name.removesuffix('_total')}", float(getattr(stats, field.name))
            if field.name in NOW:
                yield GaugeMetricFamily(name, NOW[field.name], value=value)
            else:
                yield CounterMetricFamily(name, SINCE_START[field.name], value=value)

    def describe(self) -> list[Metric]:
        return []  # so that registering does not ask for values


def export(stats: Callable[[], EngineStats], registry: CollectorRegistry = REGISTRY) -> None:
    registry.register(EngineCollector(stats))
