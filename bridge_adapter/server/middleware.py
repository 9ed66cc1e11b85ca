"""The outermost middleware: request id, error rendering, log line, count of what runs. Pure ASGI, hides nothing."""

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge_adapter.errors import APIError, ClientGone, forget_frames
from bridge_adapter.openai_api.answers import request_id
from bridge_adapter.server.replies import send_error
from bridge_adapter.server.state import AdapterState
from bridge_adapter.server.url_hints import meant
from bridge_adapter.telemetry.exchange import Exchange

_logger = logging.getLogger("bridge_adapter")
_CLIENT_GONE = 499


class RequestMiddleware:
    """Every request passes here. After an answer began an error cannot be told: the server cuts what has no end."""

    def __init__(self, app: ASGIApp, state: AdapterState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        exchange = Exchange(request_id(given), method=scope["method"], path=scope["path"])
        scope.setdefault("state", {}).update(exchange=exchange, headers=headers)
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                exchange.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", exchange.request_id.encode()),
                    *exchange.response_headers,
                ]
            await send(message)

        observer = self._state.observer
        self._state.in_flight += 1
        observer.began(exchange, headers)
        try:
            self._state.trusted_hosts.check(headers.get(b"host", b"").decode("latin-1"))
            await self._app(scope, receive, tell)
        except Exception as error:
            reply = _reply(exchange, error)
            if reply is not None and not started:
                await send_error(tell, reply)
            forget_frames(error)
        finally:
            self._state.in_flight -= 1
            observer.ended(exchange)


def _reply(exchange: Exchange, error: Exception) -> APIError | None:
    """What the client is told, which is nothing if it has left. The exchange notes what became of the request."""
    if isinstance(error, ClientGone):
        exchange.cancelled = True
        exchange.status = exchange.status or _CLIENT_GONE
        return None
    if isinstance(error, APIError):
        exchange.note_error(error)
        return error
    if isinstance(error, HTTPException):
        return _in_openais_words(error, exchange.method, exchange.path)
    # The message of an unexpected error may hold content: its type and place must do.
    _logger.error("request_id=%s failed: %s", exchange.request_id, _place(error))
    exchange.error = "internal"
    return APIError("The server had an error while processing your request.")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    frames = []
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(frames[-6:])}"


def _in_openais_words(error: HTTPException, method: str, path: str) -> APIError:
    """Starlette's own refusals in OpenAI's words."""
    if error.status_code == 405:
        return APIError(
            f"Not allowed to {method} on {path[:200]}. (HINT: Perhaps you meant to use a different HTTP method?)",
            status=405,
            type="invalid_request_error",
            headers=error.headers,
        )
    if error.status_code == 404:
        known = meant(path)
        hint = f" (HINT: Perhaps you meant {known[:200]}?)" if known and known != path else ""
        return APIError(f"Invalid URL ({method} {path[:200]}){hint}", status=404, type="invalid_request_error")
    return APIError(str(error.detail)[:200], status=error.status_code, type="invalid_request_error")
