"""A request's body: read within its limits of size and time, parsed as JSON. Knows no field."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive

from bridge_adapter.errors import ClientGone, InvalidRequest
from bridge_adapter.openai_api.operations import json_object
from bridge_adapter.server.content_encoding import ContentDecoder, decoder_for


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], *, limit: int, seconds: float | None
) -> dict[str, Any]:
    """The JSON object in the body; raises InvalidRequest, or ClientGone when the body never came to its end.

    `limit` is in bytes, for the body as it is sent and as it is decoded; `seconds` is None where all of it is here.
    """
    kind = headers.get(b"content-type", b"").decode("latin-1")
    # A web page of any origin can post other types without asking, and no key stands in its way on an open service.
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest(f"Invalid Content-Type header ({kind[:100]}), expected application/json.", status=415)
    decoder = decoder_for(headers.get(b"content-encoding", b"").decode("latin-1"))
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    if seconds is None:
        return _parse(await _receive_all(receive, limit, decoder))
    try:
        async with asyncio.timeout(seconds):
            return _parse(await _receive_all(receive, limit, decoder))
    except TimeoutError:
        raise InvalidRequest(
            "The request body did not arrive in time.", status=408, headers={"connection": "close"}
        ) from None


async def _receive_all(receive: Receive, limit: int, decoder: ContentDecoder | None) -> bytes:
    data = bytearray()
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        received += len(piece)
        data += piece if decoder is None else decoder.decode(piece, limit + 1 - len(data))
        if max(received, len(data)) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            if decoder is not None:
                decoder.finish()
            return bytes(data)


def _too_large(limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"The request body is too large: the limit is {limit} bytes.", status=413, headers={"connection": "close"}
    )


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data.removeprefix(BOM_UTF8))  # which .NET's writers begin with
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error.msg} at character {error.pos}. "
            "The API expects a JSON payload."
        ) from None
    return json_object(body)
