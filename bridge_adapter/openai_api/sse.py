"""Server-sent events of a stream: the renderer that each operation has, keep-alive comments, errors, [DONE]. Pure."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from bridge_adapter.contract import Event
from bridge_adapter.errors import APIError


class Renderer(Protocol):
    """Makes one answer's stream. `render` takes events in the contract's order; `fail` ends a stream after a fault."""

    def render(self, events: Iterable[Event]) -> bytes: ...

    def fail(self, error: APIError) -> bytes: ...


DONE = b"data: [DONE]\n\n"


COMMENT = b": keep-alive\n\n"
HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
"""Of a stream: no proxy may hold it back or compress it."""


def failed(error: APIError) -> bytes:
    """An error after the status 200 was sent; clients raise it. [DONE] follows for clients that wait for it."""
    return b"data: %b\n\n%b" % (_json(error.body()), DONE)


_json = msgspec.json.encode
