"""The errors of the model, each with its HTTP status and the fields of OpenAI's error object.

TrussModelError
├── RequestError        400  the caller's body is wrong; `param` names the field
├── QueueFull           429  too many requests wait; `retry_after` in seconds
├── EngineUnwell        503  the engine does not run, or the server is draining
├── GenerationFailed    500  a fault inside a step failed this request's rows
├── ClientGone          499  the client disconnected
└── LoadError           500  the model cannot be loaded; the message names the cause and what to change
    └── GpuLost              a fault of the GPU; another process may load the model, and begins with less
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
    """The queue is full, or the request waited in it for longer than allowed."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.retry_after = retry_after


class EngineUnwell(TrussModelError):
    """The engine is stopped, failing or draining; another replica may serve the request."""

    status = 503
    type = "service_unavailable_error"


class GenerationFailed(TrussModelError):
    """A fault inside a step; its rows are lost, the engine continues."""


class ClientGone(TrussModelError):
    """The client disconnected before the answer was complete."""

    status = 499


class LoadError(TrussModelError):
    """The model cannot be loaded; transient: a second attempt may succeed."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class GpuLost(LoadError):
    """This process cannot use its GPU any more. Another one can, and begins one rung lower."""


def forget_frames(error: BaseException) -> None:
    """Cut an error that is told to the caller, and those that led to it, off the frames that raised them.

    The request keeps why it ended, and the frames keep the request: all of it would wait for the garbage collector.
    """
    each: BaseException | None = error
    while each is not None and each.__traceback__ is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
