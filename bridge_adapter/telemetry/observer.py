"""Reports requests to operators: one interface to the log, the metrics and the traces."""

import time
from collections.abc import Mapping

from bridge_adapter.contract import Delta, Done, Event, Finish, ToolCall
from bridge_adapter.settings import Observe
from bridge_adapter.telemetry.access_log import AccessLog
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.telemetry.metrics import Metrics
from bridge_adapter.telemetry.tracing import Tracing


class Observer:
    """One per process."""

    def __init__(self, settings: Observe) -> None:
        self.metrics = Metrics()
        self._log = AccessLog(settings.access_log) if settings.access_log != "off" else None
        self._tracing = Tracing(settings.otlp_endpoint, settings.service_name) if settings.otlp_endpoint else None

    def began(self, exchange: Exchange, headers: Mapping[bytes, bytes]) -> None:
        self.metrics.in_flight.inc()
        if self._tracing is not None:
            decoded = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
            exchange.span = self._tracing.began(exchange, decoded)

    def note_events(self, exchange: Exchange, events: list[Event]) -> None:
        """Note a batch of a stream: the time of its tokens, how choices ended, the usage."""
        tokens = False
        for event in events:
            kind = type(event)
            if kind is Delta or kind is ToolCall:
                tokens = True
            elif isinstance(event, Finish):
                exchange.finish_reasons.append(event.reason)
            elif isinstance(event, Done):
                exchange.note_usage(event.usage)
        if tokens:
            now = time.perf_counter()
            if exchange.observe_gap is not None:
                exchange.observe_gap(now - exchange.last_token)
            else:
                exchange.first_token = now
                exchange.observe_gap = self.metrics.gaps(exchange)
            exchange.last_token = now

    def ended(self, exchange: Exchange) -> None:
        self.metrics.in_flight.dec()
        took = time.perf_counter() - exchange.began
        self.metrics.count(exchange, took)
        if self._log is not None:
            self._log.write(exchange, took)
        if self._tracing is not None and exchange.span is not None:
            self._tracing.ended(exchange.span, exchange)

    def close(self) -> None:
        """Blocks until the last traces are sent."""
        if self._tracing is not None:
            self._tracing.close()
