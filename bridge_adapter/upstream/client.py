"""The only HTTP client: connects to a Truss, retries, reads, closes. Knows bytes and statuses, not dialects."""

import asyncio
import random
from collections.abc import AsyncGenerator
from functools import cache

import aiohttp
from yarl import URL

from bridge_adapter.errors import UpstreamError
from bridge_adapter.settings import Server
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.upstream import errors as upstream_errors
from bridge_adapter.upstream.attempts import Attempts
from bridge_adapter.upstream.routing import Route

_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_ERROR = 256 * 1024
_DRAIN_SECONDS = 0.25
# Truss gathers a generator into one string for `Accept: application/json` and any User-Agent without "openai" in it.
_STREAM_ACCEPT = "text/event-stream, application/x-ndjson, */*"
_WHOLE_ACCEPT = "application/json"
_USER_AGENT = "truss-openai-bridge"


class UpstreamResponse:
    """A response of status 200 whose body is still to be read. The holder must call `close`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.content_type = response.headers.get("content-type", "")

    async def read(self) -> bytes:
        body = bytearray()
        while piece := await self._arrived():
            body += piece
            if len(body) > _LONGEST_ANSWER:
                raise upstream_errors.broken("an answer above the size limit")
        return bytes(body)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes that have arrived since the last time, until the body's clean end."""
        while piece := await self._arrived():
            yield piece

    async def _arrived(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise upstream_errors.cut() from error

    async def close(self, *, drain: bool) -> None:
        """Cut the connection, which the Truss notices; `drain`: the body is about to end, so keep the connection."""
        if drain and not self._response.closed:
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while await self._response.content.readany():
                        pass
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
                pass
        if not self._response.closed:
            self._response.close()


class TrussClient:
    """Posts to Trusses. One per process; `close` it on the event loop that `start` ran on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=self._server.upstream_connections, keepalive_timeout=self._server.upstream_keep_alive
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"user-agent": _USER_AGENT, "content-type": "application/json", "accept-encoding": "identity"},
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def open(self, attempts: Attempts, body: bytes, exchange: Exchange, *, stream: bool) -> UpstreamResponse:
        """Post until the status is 200. Raises UpstreamError. Nothing is retried after the first byte."""
        route, retries = attempts.route, attempts.retries
        for attempt in range(retries.attempts + 1):
            try:
                return await self._post(route, body, exchange, stream)
            except UpstreamError as error:
                if attempt == retries.attempts or not _retryable(error):
                    raise
                pause = retries.backoff * 2**attempt * random.uniform(0.5, 1.0)
                if error.status == 429 and error.retry_after is not None:
                    pause = max(pause, error.retry_after)
                if pause > retries.longest_wait or not attempts.may_retry():
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def is_ready(self, url: str, seconds: float) -> bool:
        """Whether the Truss behind a predict URL answers its readiness route with a status below 500."""
        probe = URL(url)
        if probe.path.endswith(":predict"):
            probe = probe.with_path(probe.path.removesuffix(":predict"))
        try:
            async with self._opened.get(probe, timeout=aiohttp.ClientTimeout(total=seconds)) as response:
                return response.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("TrussClient.start was not called")
        return self._session

    async def _post(self, route: Route, body: bytes, exchange: Exchange, stream: bool) -> UpstreamResponse:
        headers = {"accept": _STREAM_ACCEPT if stream else _WHOLE_ACCEPT, "x-request-id": exchange.request_id}
        if route.authorization is not None:
            headers["authorization"] = route.authorization
        headers.update(exchange.trace_headers)
        try:
            response = await self._opened.post(
                route.upstream.url,
                data=body,
                headers=headers,
                allow_redirects=False,  # a key must not follow a redirect to another host
                timeout=_timeout(route.upstream.timeouts.connect),
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise upstream_errors.too_slow("connect") from error
        except aiohttp.ClientConnectorError as error:
            raise upstream_errors.unreachable("connect") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError) as error:
            raise upstream_errors.unreachable("disconnected") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise upstream_errors.broken("an invalid HTTP response") from error
        exchange.upstream_request_id = response.headers.get("x-baseten-request-id", "")[:128]
        if response.status == 200:
            return UpstreamResponse(response)
        raise await _refusal(response, route.callers_key)


@cache
def _timeout(connect: float) -> aiohttp.ClientTimeout:
    """Only the time to connect is limited here; the watchdog limits the phases after it."""
    return aiohttp.ClientTimeout(total=None, sock_connect=connect)


def _retryable(error: UpstreamError) -> bool:
    # A server that accepts no connection or lets its gateway time out has taken long enough.
    return upstream_errors.is_unavailable(error) and error.status != 504


async def _refusal(response: aiohttp.ClientResponse, callers_key: bool) -> UpstreamError:
    body = bytearray()
    try:
        while len(body) < _LONGEST_ERROR and (piece := await response.content.readany()):
            body += piece
    except (aiohttp.ClientError, OSError, ValueError):
        body.clear()
    finally:
        response.close()
    return upstream_errors.refusal(response.status, response.headers, bytes(body), callers_key=callers_key)
