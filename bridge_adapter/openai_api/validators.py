"""Checks of one JSON value each, with OpenAI's own messages, codes and parameter paths. Knows no field by name."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from bridge_adapter.errors import InvalidRequest

Check = Callable[[Any, str], Any]
"""Takes a value and its path; returns what the value means or raises InvalidRequest."""

INT64_MAX = 2**63 - 1
_DEEPEST = 200  # orjson reads 1,024 levels and writes 254, those around the value among them


def type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def wrong_type(param: str, expected: str, value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead.",
        param=param,
        code="invalid_type",
    )


def missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


_dropped: ContextVar[list[str] | None] = ContextVar("dropped", default=None)


@contextmanager
def dropping_unknown() -> Iterator[list[str]]:
    """Inside, unknown fields at any depth are left out and their paths are added to the list."""
    dropped: list[str] = []
    token = _dropped.set(dropped)
    try:
        yield dropped
    finally:
        _dropped.reset(token)


def drop_unknown(value: Any, param: str) -> None:
    """Raises InvalidRequest unless inside `dropping_unknown`, or for null: some clients spell out all their fields."""
    if value is None:
        return
    drop_or_raise(
        param,
        InvalidRequest(f"Unknown parameter: '{param[:200]}'.", param=param[:200], code="unknown_parameter"),
    )


def drop_or_raise(param: str, error: InvalidRequest) -> None:
    """For an unsupported value that can be left out: inside `dropping_unknown` it is, else `error` is raised."""
    dropped = _dropped.get()
    if dropped is None:
        raise error
    dropped.append(param)


def left_out(value: Any, param: str) -> Any:
    """The check of fields that clients send back because they stood in an answer, and that no model reads."""
    return None


def wrong_value(param: str, value: str, supported: Sequence[str]) -> InvalidRequest:
    quoted = [f"'{name}'" for name in supported]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"
    return InvalidRequest(
        f"Invalid value: '{value[:100]}'. Supported values are: {listed}.", param=param, code="invalid_value"
    )


def unsupported_value(param: str, value: Any, supported: Sequence[str]) -> InvalidRequest:
    listed = ", ".join(f"'{name}'" for name in supported)
    return InvalidRequest(
        f"Unsupported value: '{param}' does not support '{str(value)[:100]}' with this model. "
        f"Supported values are: {listed}.",
        param=param,
        code="unsupported_value",
    )


def _outside(param: str, noun: str, side: str, sign: str, bound: float, value: float) -> InvalidRequest:
    word = "below minimum" if side == "below_min" else "above maximum"
    return InvalidRequest(
        f"Invalid '{param}': {noun} {word} value. Expected a value {sign} {bound}, but got {value} instead.",
        param=param,
        code=f"{noun}_{side}_value",
    )


def _too_long(param: str, low: int, high: int, value: float) -> InvalidRequest:
    if value < low:
        return _outside(param, "integer", "below_min", ">=", low, value)
    return _outside(param, "integer", "above_max", "<=", high, value)


def integer(low: int, high: int = INT64_MAX) -> Check:
    def check(value: Any, param: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, float) and abs(value) > 2**63:  # what orjson makes of longer integers
                raise _too_long(param, low, high, value)
            raise wrong_type(param, "an integer", value)
        if value < low:
            raise _outside(param, "integer", "below_min", ">=", low, value)
        if value > high:
            raise _outside(param, "integer", "above_max", "<=", high, value)
        return value

    return check


def decimal(low: float, high: float) -> Check:
    def check(value: Any, param: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(param, "a decimal", value)
        if value < low:
            raise _outside(param, "decimal", "below_min", ">=", low, value)
        if value > high:
            raise _outside(param, "decimal", "above_max", "<=", high, value)
        return value

    return check


def boolean(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)
    return value


def string(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    return value


def text(longest: int, pattern: str | None = None) -> Check:
    compiled = re.compile(pattern) if pattern else None

    def check(value: Any, param: str) -> str:
        held = string(value, param)
        if len(held) > longest:
            raise InvalidRequest(
                f"Invalid '{param}': string too long. Expected a string with maximum length {longest}, "
                f"but got a string with length {len(held)} instead.",
                param=param,
                code="string_above_max_length",
            )
        if compiled and not compiled.fullmatch(held):
            raise InvalidRequest(
                f"Invalid '{param}': string does not match pattern. Expected a string that matches the pattern "
                f"'^{pattern}$'.",
                param=param,
                code="invalid_value",
            )
        return held

    return check


def one_of(*names: str) -> Check:
    def check(value: Any, param: str) -> str:
        held = string(value, param)
        if held not in names:
            raise wrong_value(param, held, names)
        return held

    return check


def only(*supported: Any, known: Sequence[str] = (), droppable: bool = False) -> Check:
    """Accepts the values that change nothing. Others are refused or, if `droppable`, dropped like unknown fields."""

    def check(value: Any, param: str) -> Any:
        if type(value) is type(supported[0]) and value in supported:
            return value
        error = _not_among(value, param, supported, known)
        if not droppable:
            raise error
        drop_or_raise(param, error)
        return supported[0]

    return check


def _not_among(value: Any, param: str, supported: Sequence[Any], known: Sequence[str]) -> InvalidRequest:
    if type(value) is not type(supported[0]):
        return wrong_type(param, "a string" if isinstance(supported[0], str) else "a boolean", value)
    if known and value not in known:
        return wrong_value(param, str(value), (*supported, *known))
    return unsupported_value(param, value, [str(name) for name in supported])


def mapping(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return value


def json_schema(value: Any, param: str) -> dict[str, Any]:
    """Any object that can be written again; what it means is the model's to judge."""
    level: list[Any] = [mapping(value, param)]
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return cast(dict[str, Any], value)
    raise InvalidRequest(
        f"Invalid '{param}': nested too deeply. Expected at most {_DEEPEST} levels.", param=param, code="invalid_value"
    )


def array(value: Any, param: str, *, of: str = "objects", shortest: int = 1, longest: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type(param, f"an array of {of}", value)
    if len(value) < shortest:
        raise InvalidRequest(
            f"Invalid '{param}': empty array. Expected an array with minimum length {shortest}, "
            "but got an empty array instead.",
            param=param,
            code="empty_array",
        )
    if longest is not None and len(value) > longest:
        raise InvalidRequest(
            f"Invalid '{param}': array too long. Expected an array with maximum length {longest}, "
            f"but got an array with length {len(value)} instead.",
            param=param,
            code="array_above_max_length",
        )
    return value


def shape(value: Any, param: str, fields: dict[str, Check], required: Sequence[str] = ()) -> dict[str, Any]:
    """An object with only these fields; null means absent. Returns the fields that are there, checked."""
    checked: dict[str, Any] = {}
    for name, item in mapping(value, param).items():
        check = fields.get(name)
        path = f"{param}.{name}"
        if check is None:
            drop_unknown(item, path)
        elif item is not None and check is not left_out:
            checked[name] = check(item, path)
    for name in required:
        if name not in checked:
            raise missing(f"{param}.{name}")
    return checked
