"""One OpenTelemetry span a request, by the GenAI semantic conventions. Used only if an endpoint is configured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bridge_adapter.settings import SettingsError
from bridge_adapter.telemetry.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "responses": "chat"}


class Tracing:
    """Sends spans to an OTLP endpoint over HTTP, in the background. Spans hold names and counts, never content."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise SettingsError("observe.otlp_endpoint: install truss-openai-bridge[otel] to send traces") from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("bridge_adapter")
        self._propagator = TraceContextTextMapPropagator()

    def began(self, exchange: Exchange, headers: Mapping[str, str]) -> "Span":
        """A span below the caller's; the exchange has the headers that pass it to the upstream."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        parent = self._propagator.extract(dict(headers))
        span = self._tracer.start_span(exchange.method, context=parent, kind=SpanKind.SERVER)
        self._propagator.inject(exchange.trace_headers, set_span_in_context(span))
        return span

    def ended(self, span: "Span", exchange: Exchange) -> None:
        from opentelemetry.trace import StatusCode

        operation = _OPERATIONS.get(exchange.route)
        span.update_name(f"{operation} {exchange.model}" if operation else f"{exchange.method} {exchange.route}")
        span.set_attribute("http.request.method", exchange.method)
        span.set_attribute("http.response.status_code", exchange.status)
        span.set_attribute("bridge.request_id", exchange.request_id)
        if operation:
            self._describe(span, operation, exchange)
        if exchange.error or exchange.status >= 500:
            span.set_attribute("error.type", exchange.error or str(exchange.status))
            span.set_status(StatusCode.ERROR)
        span.end()

    def _describe(self, span: "Span", operation: str, exchange: Exchange) -> None:
        span.set_attribute("gen_ai.operation.name", operation)
        span.set_attribute("gen_ai.provider.name", "truss")
        span.set_attribute("gen_ai.request.model", exchange.model)
        span.set_attribute("gen_ai.usage.input_tokens", exchange.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", exchange.completion_tokens)
        if exchange.finish_reasons:
            span.set_attribute("gen_ai.response.finish_reasons", exchange.finish_reasons)
        if exchange.first_token:
            span.set_attribute("bridge.first_token_seconds", exchange.first_token - exchange.began)

    def close(self) -> None:
        """Blocks until the last spans are sent."""
        self._provider.shutdown()
