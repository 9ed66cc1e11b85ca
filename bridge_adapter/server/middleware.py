"""The outermost middleware: request id, error rendering, log line, count of what runs. Pure ASGI, hides nothing."""

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge_adapter.errors import APIError, Forbidden
from bridge_adapter.exchange import Exchange, request_id
from bridge_adapter.replies import send_error
from bridge_adapter.service import Service
from bridge_adapter.watch import ClientGone

_logger = logging.getLogger("bridge_adapter")
_CLIENT_GONE = 499


class Edge:
    """Every request passes here. After an answer began an error cannot be told: the server cuts what has no end."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        exchange = Exchange(request_id(given), method=scope["method"], path=scope["path"])
        scope.setdefault("state", {})["exchange"] = exchange
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

        observer = self._service.observer
        self._service.in_flight += 1
        observer.began(exchange, headers)
        try:
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            await self._app(scope, receive, tell)
        except ClientGone:
            exchange.cancelled = True
            exchange.status = exchange.status or _CLIENT_GONE
        except APIError as error:
            exchange.note_error(error)
            if not started:
                await send_error(tell, error)
        except HTTPException as error:
            if not started:
                await send_error(tell, _in_openais_words(error, exchange.method, exchange.path))
        except Exception as error:
            # The message of an unexpected error may hold content: its type and place must do.
            _logger.error("request_id=%s failed: %s", exchange.request_id, _place(error))
            exchange.error = "internal"
            if not started:
                await send_error(tell, APIError("The server had an error while processing your request."))
        finally:
            self._service.in_flight -= 1
            observer.ended(exchange)

    def _check_host(self, host: str) -> None:
        trusted = self._service.trusted_hosts
        if trusted is not None and host and _host_name(host) not in trusted:
            raise Forbidden(
                f"This service does not answer to the host name '{_host_name(host)[:100]}'; "
                "`server.trusted_hosts` says to which it does."
            )


def _host_name(host: str) -> str:
    """Without the port and the brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


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
        return APIError(f"Invalid URL ({method} {path[:200]})", status=404, type="invalid_request_error")
    return APIError(str(error.detail)[:200], status=error.status_code, type="invalid_request_error")
