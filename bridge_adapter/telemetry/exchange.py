"""What is known of one request: a record filled on its way, read by the log, the metrics and the trace."""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge_adapter.errors import APIError, UpstreamError
from bridge_adapter.settings import Price
from bridge_adapter.wire import Result, Usage

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Exchange:
    """Times are of `time.perf_counter`. Holds no key and no content."""

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
    cancelled: bool = False
    upstream_request_id: str = ""
    dropped: tuple[str, ...] = ()
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    observe_gap: Callable[[float], None] | None = None
    span: "Span | None" = None
    trace_headers: dict[str, str] = field(default_factory=dict)
    price: Price = field(default_factory=Price)

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """To be sent with the answer, whatever it becomes."""
        self.response_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    def note_error(self, error: APIError) -> None:
        self.error = error.code or error.type
        if isinstance(error, UpstreamError):
            self.error = self.upstream_error = error.kind

    def dropped_header(self) -> str:
        """The names of dropped fields, as far as they are words."""
        return ",".join(name for name in self.dropped if _SAFE_ID.fullmatch(name))[:1000]

    def note_result(self, result: Result) -> None:
        self.finish_reasons = [choice.finish_reason for choice in result.choices]
        self.note_usage(result.usage)

    def note_usage(self, usage: Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.completion_tokens = usage.completion_tokens
        self.cached_tokens = usage.cached_tokens


def request_id(given: str | None) -> str:
    """The caller's own id if it is harmless in headers and logs, else a new one."""
    return given if given and _SAFE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
