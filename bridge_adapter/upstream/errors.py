"""What an upstream's refusal means for the caller: status and headers -> APIError. Pure; no web page gets through."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from bridge_adapter.errors import UpstreamError
from bridge_adapter.wire import Failure

_LONGEST_MESSAGE = 1000
_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    402: "insufficient_quota",
    403: "invalid_request_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_RETRYABLE = (408, 409, 429, 500, 502, 503, 504)


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, callers_key: bool) -> UpstreamError:
    """The error of an answer that is not 200. 401 and 403 are the caller's only if the caller's key opened the door."""
    if not 400 <= status < 600:
        return UpstreamError(
            f"The model's server answered with status {status}.", kind=f"status_{status}", should_retry=False
        )
    if status in (401, 403) and not callers_key:
        return UpstreamError(
            "The model's server refused the key that this service is configured with.",
            kind=f"status_{status}",
            should_retry=False,
        )
    told = _told(body)
    retry_after = parse_retry_after(headers.get("retry-after"))
    if status in (429, 503) and retry_after is None:
        retry_after = 1.0
    return UpstreamError(
        told.get("message") or f"The model's server answered with status {status}.",
        kind=f"status_{status}",
        status=status,
        type=told.get("type") or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        param=told.get("param"),
        code=told.get("code") or _CODES.get(status),
        retry_after=retry_after,
        should_retry=status in _RETRYABLE,
    )


def failure(event: Failure) -> UpstreamError:
    """The error of an `error` event."""
    status = event.status if 400 <= event.status < 600 else 500
    return UpstreamError(
        event.message[:_LONGEST_MESSAGE],
        kind="in_band",
        status=status,
        type=event.type,
        param=event.param,
        code=event.code,
        retry_after=1.0 if status in (429, 503) else None,
    )


def error_inside(body: Mapping[str, Any]) -> UpstreamError:
    """The error of a 200 that holds an error."""
    error = body.get("error") or body.get("message")
    told = _fields(error) if isinstance(error, dict) else {"message": error if isinstance(error, str) else None}
    status = error.get("status") if isinstance(error, dict) else None
    return UpstreamError(
        told.get("message") or "The model's server answered with an error.",
        kind="in_band",
        status=status if isinstance(status, int) and 400 <= status < 600 else 502,
        type=told.get("type"),
        param=told.get("param"),
        code=told.get("code"),
    )


def broken(what: str) -> UpstreamError:
    return UpstreamError(
        f"The model's server sent an answer that cannot be used: {what}.", kind="broken", should_retry=False
    )


def unreachable(kind: str) -> UpstreamError:
    return UpstreamError(
        "The model's server cannot be reached.",
        kind=kind,
        status=503,
        type="service_unavailable_error",
        retry_after=1.0,
        should_retry=True,
    )


def cut() -> UpstreamError:
    return UpstreamError("The model's server broke the connection before the end of its answer.", kind="cut")


def too_slow(phase: str) -> UpstreamError:
    said = {
        "connect": "did not accept a connection",
        "first_byte": "did not begin its answer",
        "idle": "fell silent in the middle of its answer",
        "total": "did not finish its answer",
    }[phase]
    return UpstreamError(f"The model's server {said} in time.", kind=f"timeout_{phase}", status=504)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header in either of its forms; None if there is none that makes sense."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _told(body: bytes) -> dict[str, str | None]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    error = value.get("error")
    if isinstance(error, dict):
        return _fields(error)
    for told in (error, value.get("detail"), value.get("message")):
        if isinstance(told, str) and "<" not in told:
            return {"message": told[:_LONGEST_MESSAGE]}
    return {}


def _fields(error: Mapping[str, Any]) -> dict[str, str | None]:
    def held(name: str) -> str | None:
        value = error.get(name)
        return value[:_LONGEST_MESSAGE] if isinstance(value, str) and value else None

    return {name: held(name) for name in ("message", "type", "param", "code")}
