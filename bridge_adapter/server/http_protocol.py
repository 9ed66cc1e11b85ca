"""uvicorn's httptools protocol for clients of other HTTP versions: upgrades are declined, HTTP/1.0 gets no chunks.

Knows no routes. httptools stops at a request that offers an upgrade (RFC 9110, section 7.8: a server may ignore it)
and leaves its body out; JDK's HttpClient offers `h2c` with the first request of each connection.
"""

from collections.abc import MutableMapping
from typing import Any
from weakref import ref

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

BODY = "bridge_adapter.body"
"""The name of the ASGI extension by which an app asks `body_arrived`."""


class BridgeProtocol(HttpToolsProtocol):
    """Serves HTTP/1.1 and HTTP/1.0 only. A request that offers another protocol is answered as if it did not."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                    self._decline_upgrade()
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def _should_upgrade(self) -> bool:
        """Only asked about a request that offers an upgrade; True keeps the base class from starting it."""
        return True

    def _decline_upgrade(self) -> None:
        """Parse the head once more without the offer; the parser then expects the body. Raises HttpParserError."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":  # an upgrade without a header: what follows belongs into a tunnel
            raise httptools.HttpParserError("CONNECT is for proxies")
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())]
        head += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the base class has it
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] != "1.1":
            app = CloseDelimited(app, cycle)
        cycle.scope.setdefault("extensions", {})[BODY] = {"cycle": ref(cycle)}  # weak, as it holds the scope
        super()._start_asgi_task(cycle, app)


def body_arrived(scope: Scope) -> bool:
    """Whether all of a request's body is here, so that nothing of it must be waited for; False where nobody knows."""
    extension = scope.get("extensions", {}).get(BODY)
    cycle = extension["cycle"]() if extension is not None else None
    return cycle is not None and not cycle.more_body


class CloseDelimited:
    """`app` for a client that knows no chunks: a body without a length ends with the connection (RFC 9112, 6.3)."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unbounded = False

        async def send_without_chunks(message: MutableMapping[str, Any]) -> None:
            nonlocal unbounded
            if message["type"] == "http.response.start":
                unbounded = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if unbounded:
                    self._cycle.chunked_encoding = False
            elif unbounded:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_without_chunks)
