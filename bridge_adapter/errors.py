"""The errors that callers get, with status and OpenAI's error fields; `APIError.body` renders them.

APIError
├── InvalidRequest      400  the request is wrong; `param` names the field
├── Unauthenticated     401  no key, or a wrong one
├── Forbidden           403  the key may not do this
├── NotFound            404  no such model or route
├── RateLimited         429  a limit of the key, of the model, or of the process
├── Unavailable         503  this process is draining
└── UpstreamError       5xx  the Truss failed; `kind` is the metric label
"""

import math
from collections.abc import Mapping
from typing import Any


class APIError(Exception):
    """Base class. `should_retry` becomes the header that OpenAI's clients obey; None leaves the decision to them."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status or self.status
        self.type = type or self.type
        self.retry_after = retry_after
        self.should_retry = should_retry
        self._headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        headers = dict(self._headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(0, math.ceil(self.retry_after)))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


class InvalidRequest(APIError):
    """The request is wrong; a retry cannot succeed."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(APIError):
    """The key is missing or unknown."""

    status = 401
    type = "invalid_request_error"


class Forbidden(APIError):
    """The key is known but may not do this."""

    status = 403
    type = "invalid_request_error"


class NotFound(APIError):
    """No such model or route."""

    status = 404
    type = "invalid_request_error"


class RateLimited(APIError):
    """A limit is reached; `retry_after` is the time until it may have room again."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            message, code="rate_limit_exceeded", retry_after=retry_after, should_retry=True, headers=headers
        )


class Unavailable(APIError):
    """This process accepts no new requests."""

    status = 503
    type = "service_unavailable_error"


class UpstreamError(APIError):
    """The Truss failed."""

    status = 502

    def __init__(self, message: str, *, kind: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.kind = kind


def unsupported_parameter(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: '{param}' is not supported with this model.", param=param, code="unsupported_parameter"
    )


def model_not_found(name: str) -> NotFound:
    return NotFound(
        f"The model `{name[:200]}` does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


class ClientGone(Exception):
    """The client has disconnected."""


def forget_frames(error: BaseException) -> None:
    """Cut an error that was answered, and those that led to it, off the frames that raised them.

    A frame that has the error in a variable, or an object that keeps it, makes a cycle of the two: all that the request
    held would wait for the garbage collector.
    """
    each: BaseException | None = error
    while each is not None and each.__traceback__ is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
