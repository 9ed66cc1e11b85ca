"""An upstream's error response -> the APIError that the caller gets. Pure; a web page is never passed on."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from bridge_adapter.contract import Failure
from bridge_adapter.errors import UpstreamError

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
_NOT_REACHED = ("connect", "disconnected", "timeout_connect")
_BUSY = (429, 502, 503, 504)
_RETRYABLE = (408, 409, 429, 500, 502, 503, 504)


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, callers_key: bool) -> UpstreamError:
    """The error of a response that is not 200. 401 and 403 are passed on only for the caller's own key."""
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
    given = _error_fields(body)
    retry_after = parse_retry_after(headers.get("retry-after"))
    if status in (429, 503) and retry_after is None:
        retry_after = 1.0
    return UpstreamError(
        given.get("message") or f"The model's server answered with status {status}.",
        kind=f"status_{status}",
        status=status,
        type=given.get("type") or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        param=given.get("param"),
        code=given.get("code") or _CODES.get(status),
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
    """The error in a response of status 200."""
    error = body.get("error") or body.get("message")
    given = _fields(error) if isinstance(error, dict) else {"message": error if isinstance(error, str) else None}
    status = error.get("status") if isinstance(error, dict) else None
    return UpstreamError(
        given.get("message") or "The model's server returned an error.",
        kind="in_band",
        status=status if isinstance(status, int) and 400 <= status < 600 else 502,
        type=given.get("type"),
        param=given.get("param"),
        code=given.get("code"),
    )


def broken(what: str) -> UpstreamError:
    return UpstreamError(f"The model's server sent an unusable answer: {what}.", kind="broken", should_retry=False)


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
    return UpstreamError("The model's server closed the connection before the end of its answer.", kind="cut")


def too_slow(phase: str) -> UpstreamError:
    message = {
        "connect": "The model's server did not accept a connection in time.",
        "first_byte": "The model's server did not begin its answer in time.",
        "idle": "The model's server stopped sending in the middle of its answer.",
        "total": "The model's server did not finish its answer in time.",
    }[phase]
    return UpstreamError(message, kind=f"timeout_{phase}", status=504)


def is_unavailable(error: UpstreamError) -> bool:
    """Whether the server could not take the request, so that asking again, or another server, may help."""
    return error.kind in _NOT_REACHED or (error.status in _BUSY and error.kind == f"status_{error.status}")


def is_fault(error: UpstreamError) -> bool:
    """Whether it tells that the server is not well, other than an answer that refuses one request."""
    return (
        error.kind in (*_NOT_REACHED, "cut", "broken")
        or error.kind.startswith("timeout_")
        or (error.kind == f"status_{error.status}" and error.status >= 500)
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header in either of its forms; None if it is absent or invalid."""
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


def _error_fields(body: bytes) -> dict[str, str | None]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    error = value.get("error")
    if isinstance(error, dict):
        return _fields(error)
    for message in (error, value.get("detail"), value.get("message")):
        if isinstance(message, str) and "<" not in message:
            return {"message": message[:_LONGEST_MESSAGE]}
    return {}


def _fields(error: Mapping[str, Any]) -> dict[str, str | None]:
    def held(name: str) -> str | None:
        value = error.get(name)
        return value[:_LONGEST_MESSAGE] if isinstance(value, str) and value else None

    return {name: held(name) for name in ("message", "type", "param", "code")}
