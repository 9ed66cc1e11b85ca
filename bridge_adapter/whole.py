"""One JSON value, or whatever else a Truss answered as a whole -> dialect and Result. Pure."""

from typing import Any, Literal

import msgspec
import orjson

from bridge_adapter.openai_upstream import read_completion
from bridge_adapter.wire import Broken, Choice, Result


class ErrorInside(Exception):
    """A 200 that holds an error instead of an answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__()
        self.body = body


def read_whole(body: bytes) -> tuple[Literal["predict", "text", "openai"], Result]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Broken("no JSON") from error
    if isinstance(value, str):
        return "text", Result([Choice(0, value)])
    if not isinstance(value, dict):
        raise Broken("JSON that is no answer")
    choices = value.get("choices")
    if not isinstance(choices, list):
        if value.get("error") or value.get("status") == "error":
            raise ErrorInside(value)
        raise Broken("JSON without choices")
    try:
        if any(isinstance(choice, dict) and "message" in choice for choice in choices):
            return "openai", read_completion(value)
        return "predict", msgspec.convert(value, Result)
    except msgspec.ValidationError as error:
        raise Broken("choices of an unknown shape") from error
