"""The record of one request, filled while it is processed; the log, the metrics and the trace read it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge_adapter.contract import Result, Usage
from bridge_adapter.errors import APIError, UpstreamError
from bridge_adapter.settings import FREE, Price

if TYPE_CHECKING:
    from opentelemetry.trace import Span


@dataclass(slots=True)
class Exchange:
    """Times are of `time.perf_counter`. Holds no key and no content.

    target: the upstream that was asked last, empty if its model has only one; target_faults: (model, target) of those
    that could not answer; fallback_of: the model that was asked for when another one answers.
    """

    request_id: str
    method: str = ""
    path: str = ""
    route: str = "other"
    model: str = ""
    client: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    upstream_error: str = ""
    began: float = field(default_factory=time.perf_counter)
    first_token: float = 0.0
    last_token: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    retries: int = 0
    target: str = ""
    target_faults: list[tuple[str, str]] = field(default_factory=list)
    fallback_of: str = ""
    cancelled: bool = False
    upstream_request_id: str = ""
    dropped: tuple[str, ...] = ()
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    observe_gap: Callable[[float], None] | None = None
    span: "Span | None" = None
    trace_headers: dict[str, str] = field(default_factory=dict)
    price: Price = FREE

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Headers to send with the response, also if it becomes an error."""
        if headers:
            self.response_headers += [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()]

    def note_error(self, error: APIError) -> None:
        self.error = error.code or error.type
        if isinstance(error, UpstreamError):
            self.error = self.upstream_error = error.kind

    def note_result(self, result: Result) -> None:
        self.finish_reasons = [choice.finish_reason for choice in result.choices]
        self.note_usage(result.usage)

    def note_usage(self, usage: Usage | None) -> None:
        if usage is None:
            return
        self.prompt_tokens = usage.prompt_tokens
        self.completion_tokens = usage.completion_tokens
        self.cached_tokens = usage.cached_tokens
