"""A request's body: read within its limit, parsed, unknown fields refused or dropped, defaults and caps applied."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive

from bridge_adapter import fields
from bridge_adapter.errors import InvalidRequest
from bridge_adapter.fields import Check
from bridge_adapter.openai_types import TOKEN_LIMITS
from bridge_adapter.routing import Upstream
from bridge_adapter.watch import ClientGone


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, limit: int, seconds: float) -> dict[str, Any]:
    """The JSON object in the body; raises InvalidRequest, or ClientGone when the body never came to its end."""
    kind = headers.get(b"content-type", b"").decode("latin-1")
    # A web page of any origin can post other types without asking, and no key stands in its way on an open service.
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest(f"Invalid Content-Type header ({kind[:100]}), expected application/json.", status=415)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            return _parse(await _receive_all(receive, limit))
    except TimeoutError:
        raise InvalidRequest(
            "The request body did not arrive in time.", status=408, headers={"connection": "close"}
        ) from None


async def _receive_all(receive: Receive, limit: int) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        data += message.get("body", b"")
        if len(data) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(data)


def _too_large(limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"The request body is too large: the limit is {limit} bytes.", status=413, headers={"connection": "close"}
    )


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error.msg} at character {error.pos}. "
            "The API expects a JSON payload."
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"Invalid type for the request body: expected an object, but got {fields.type_name(body)} instead.",
            code="invalid_type",
        )
    return body


def model_of(body: Mapping[str, Any]) -> str:
    name = body.get("model")
    if name is None:
        raise InvalidRequest("you must provide a model parameter", param="model", code="missing_required_parameter")
    return fields.string(name, "model")


def without_unknown(
    body: dict[str, Any], known: Mapping[str, Check], *, drop: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body and the names of what was dropped from it; raises InvalidRequest for the first one unless `drop`."""
    unknown = tuple(name for name in body if name not in known)
    if not unknown:
        return body, ()
    if not drop:
        raise fields.unknown(unknown[0][:100])
    return {name: value for name, value in body.items() if name in known}, unknown


def with_defaults(body: dict[str, Any], upstream: Upstream, known: Mapping[str, Check]) -> dict[str, Any]:
    if not upstream.defaults:
        return body
    given = {name for name, value in body.items() if value is not None}
    if given.intersection(TOKEN_LIMITS):
        given.update(TOKEN_LIMITS)
    added = {name: value for name, value in upstream.defaults.items() if name in known and name not in given}
    return body | added


def check_caps(upstream: Upstream, body: Mapping[str, Any]) -> None:
    """Refuses what is above a cap, rather than to make less of it than was asked for. Sees checked values only."""
    for name, cap in upstream.caps.items():
        for given in TOKEN_LIMITS if name == "max_tokens" else (name,):
            value = body.get(given)
            if value is not None and value > cap:
                raise InvalidRequest(
                    f"{given} is too large: {value}. This model supports at most {cap:g}, "
                    f"whereas you provided {value}.",
                    param=given,
                    code="integer_above_max_value",
                )
