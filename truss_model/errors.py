"""Everything that can go wrong in the model, with the HTTP status and OpenAI's fields it is told with.

TrussModelError
├── RequestError        400  the caller's body is wrong; `param` names the field
├── QueueFull           429  too many requests wait; `retry_after` in seconds
├── EngineUnwell        503  the engine does not run, or the server is draining
├── GenerationFailed    500  a fault inside a step failed this request's rows
├── ClientGone          499  nobody waits for the answer any more
└── LoadError           500  the model cannot be loaded; the message names the cause and what to change
"""


class TrussModelError(Exception):
    """Base of the family: `status`, `type`, `param` and `code` are rendered by `events.error_body`."""

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class RequestError(TrussModelError):
    """The caller's body is wrong."""

    status = 400
    type = "invalid_request_error"


class QueueFull(TrussModelError):
    """No room in the queue, or the wait in it was longer than allowed."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.retry_after = retry_after


class EngineUnwell(TrussModelError):
    """The engine is stopped, broken or draining; another replica may serve the request."""

    status = 503
    type = "service_unavailable_error"


class GenerationFailed(TrussModelError):
    """A fault inside a step; the rows that were in it are lost, the engine goes on."""


class ClientGone(TrussModelError):
    """Nobody waits for the answer any more."""

    status = 499


class LoadError(TrussModelError):
    """The model cannot be loaded."""
