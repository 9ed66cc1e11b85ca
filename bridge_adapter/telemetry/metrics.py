"""Prometheus metrics of the adapter. One registry a process; those of several workers are summed on request."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from bridge_adapter.telemetry.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)
_ROUTE = ("model", "route")


class Metrics:
    """Labels hold names from the settings only, never text that a caller sent."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "bridge_requests", "Requests answered.", (*_ROUTE, "stream", "status"), registry=registry
        )
        self._finishes = Counter(
            "bridge_choices", "Choices by finish reason.", (*_ROUTE, "finish_reason"), registry=registry
        )
        self._duration = Histogram(
            "bridge_request_seconds",
            "From the request's head to the answer's end.",
            _ROUTE,
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "bridge_first_token_seconds", "To the first token of a stream.", _ROUTE, buckets=_SECONDS, registry=registry
        )
        self._gaps = Histogram(
            "bridge_inter_token_seconds", "Between pieces of a stream.", _ROUTE, buckets=_GAPS, registry=registry
        )
        self._tokens = Counter("bridge_tokens", "Tokens by direction.", ("model", "direction"), registry=registry)
        self._cost = Counter("bridge_cost_dollars", "Tokens times the settings' prices.", ("model",), registry=registry)
        self._faults = Counter(
            "bridge_upstream_errors", "Upstream errors by kind.", ("model", "kind"), registry=registry
        )
        self._retries = Counter("bridge_retries", "Retried upstream calls.", ("model",), registry=registry)
        self._cancels = Counter("bridge_cancels", "Requests whose client left.", _ROUTE, registry=registry)
        self._dropped = Counter("bridge_dropped_fields", "Unknown fields dropped.", ("model",), registry=registry)
        upstream = ("model", "upstream")
        self._answers = Counter(
            "bridge_upstream_answers", "Requests by who answered them.", upstream, registry=registry
        )
        self._no_answers = Counter(
            "bridge_upstream_faults", "Calls that an upstream failed to answer.", upstream, registry=registry
        )
        self._fallbacks = Counter(
            "bridge_fallbacks", "Requests that another model answered.", ("model", "fallback"), registry=registry
        )
        self._load = Gauge(
            "bridge_upstream_in_flight",
            "Requests at an upstream.",
            upstream,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._available = Gauge(
            "bridge_upstream_available",
            "1 if an upstream is asked, 0 while it is left alone after faults.",
            upstream,
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.in_flight = Gauge(
            "bridge_in_flight", "Requests being answered.", registry=registry, multiprocess_mode="livesum"
        )
        self._children: dict[tuple[str, ...], Any] = {}

    def gaps(self, exchange: Exchange) -> Callable[[float], None]:
        """The function that observes the times between one stream's tokens."""
        observe: Callable[[float], None] = self._child(self._gaps, exchange.model, exchange.route).observe
        return observe

    def count(self, exchange: Exchange, took: float) -> None:
        model, route = exchange.model, exchange.route
        stream = "true" if exchange.stream else "false"
        self._child(self._requests, model, route, stream, str(exchange.status)).inc()
        self._child(self._duration, model, route).observe(took)
        if exchange.first_token:
            self._child(self._first, model, route).observe(exchange.first_token - exchange.began)
        for reason in exchange.finish_reasons:
            self._child(self._finishes, model, route, reason).inc()
        if exchange.prompt_tokens or exchange.completion_tokens:
            self._count_tokens(exchange)
        if exchange.upstream_error:
            self._child(self._faults, model, exchange.upstream_error).inc()
        for name, target in exchange.target_faults:
            if target:
                self._child(self._no_answers, name, target).inc()
        if exchange.target and exchange.status < 500:
            self._child(self._answers, model, exchange.target).inc()
        if exchange.fallback_of:
            self._child(self._fallbacks, exchange.fallback_of, model).inc()
        if exchange.retries:
            self._child(self._retries, model).inc(exchange.retries)
        if exchange.cancelled:
            self._child(self._cancels, model, route).inc()
        if exchange.dropped:
            self._child(self._dropped, model).inc(len(exchange.dropped))

    def note_upstreams(self, states: Sequence[tuple[str, str, int, bool]]) -> None:
        """states: (model, upstream, requests in flight, whether it is asked)."""
        for model, upstream, in_flight, available in states:
            self._child(self._load, model, upstream).set(in_flight)
            self._child(self._available, model, upstream).set(1.0 if available else 0.0)

    def _count_tokens(self, exchange: Exchange) -> None:
        model, price = exchange.model, exchange.price
        self._child(self._tokens, model, "input").inc(exchange.prompt_tokens)
        self._child(self._tokens, model, "cached").inc(exchange.cached_tokens)
        self._child(self._tokens, model, "output").inc(exchange.completion_tokens)
        cost = exchange.prompt_tokens * price.input + exchange.completion_tokens * price.output
        if cost:
            self._child(self._cost, model).inc(cost / 1_000_000)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def text(self) -> bytes:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
