"""One line a request, as JSON or as name=value. Never a key, never content."""

import sys
import time
from typing import Literal, TextIO

import orjson

from bridge_adapter.telemetry.exchange import Exchange


class AccessLog:
    """Writes to `stream`, or to the standard output."""

    def __init__(self, form: Literal["json", "text"], stream: TextIO | None = None) -> None:
        self._form = form
        self._stream = stream or sys.stdout

    def write(self, exchange: Exchange, took: float) -> None:
        fields = _fields(exchange, took)
        line = orjson.dumps(fields).decode() if self._form == "json" else _plain(fields)
        self._stream.write(line + "\n")
        self._stream.flush()


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


def _plain(fields: dict[str, object]) -> str:
    """Empty fields are left out; the path is quoted, as it may hold any character."""
    parts = []
    for name, value in fields.items():
        if value is None or value is False or value == []:
            continue
        if name == "path":
            value = orjson.dumps(value).decode()
        elif isinstance(value, list):
            value = ",".join(value)
        parts.append(f"{name}={value}")
    return " ".join(parts)
