"""What operators see of a request: one log line, Prometheus metrics. Never a key, never content."""

import logging
import sys
import time

import orjson

from bridge_adapter.exchange import Exchange
from bridge_adapter.metrics import Metrics
from bridge_adapter.settings import Observe
from bridge_adapter.wire import Delta, Done, Event, Finish, ToolCall

_logger = logging.getLogger("bridge_adapter.access")


class Observer:
    """One per process."""

    def __init__(self, settings: Observe) -> None:
        self._form = settings.access_log
        self.metrics = Metrics()
        if self._form != "off" and not _logger.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(logging.Formatter("%(message)s"))
            _logger.addHandler(handler)
            _logger.setLevel(logging.INFO)
            _logger.propagate = False

    def heard(self, exchange: Exchange, events: list[Event]) -> None:
        """Note a batch of a stream: the time of its tokens, how choices ended, the usage."""
        if any(isinstance(event, Delta | ToolCall) for event in events):
            now = time.perf_counter()
            if exchange.first_token:
                self.metrics.between_tokens(exchange, now - exchange.last_token)
            else:
                exchange.first_token = now
            exchange.last_token = now
        if isinstance(events[-1], Finish | Done):
            for event in events:
                if isinstance(event, Finish):
                    exchange.finish_reasons.append(event.reason)
                elif isinstance(event, Done):
                    exchange.note_usage(event.usage)

    def began(self, exchange: Exchange) -> None:
        self.metrics.in_flight.inc()

    def ended(self, exchange: Exchange) -> None:
        self.metrics.in_flight.dec()
        took = time.perf_counter() - exchange.began
        self.metrics.count(exchange, took)
        if self._form == "json":
            _logger.info(orjson.dumps(_fields(exchange, took)).decode())
        elif self._form == "text":
            _logger.info(_line(exchange, took))


def _fields(exchange: Exchange, took: float) -> dict[str, object]:
    first = exchange.first_token
    return {
        "time": round(time.time(), 3),
        "request_id": exchange.request_id,
        "upstream_request_id": exchange.upstream_request_id or None,
        "method": exchange.method,
        "path": exchange.path,
        "route": exchange.route,
        "status": exchange.status,
        "error": exchange.error or None,
        "model": exchange.model or None,
        "client": exchange.client or None,
        "stream": exchange.stream,
        "cancelled": exchange.cancelled,
        "retries": exchange.retries,
        "duration_ms": round(took * 1000, 3),
        "first_token_ms": round((first - exchange.began) * 1000, 3) if first else None,
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens,
        "cached_tokens": exchange.cached_tokens,
        "finish_reasons": exchange.finish_reasons,
    }


def _line(exchange: Exchange, took: float) -> str:
    """The same as `name=value`, what is empty left out."""
    values = _fields(exchange, took)
    values["finish_reasons"] = ",".join(exchange.finish_reasons)
    return " ".join(f"{name}={value}" for name, value in values.items() if value not in (None, "", False))
