"""Reads one field of a request's body at a time, and refuses it in OpenAI's words and codes. Knows no field by name."""

from collections.abc import Sequence
from typing import Any

from truss_model.errors import RequestError


def type_name(value: object) -> str:
    """JSON's word for a value's type, as OpenAI's messages have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "an array"
    return "an object" if isinstance(value, dict) else type(value).__name__


def wrong_type(param: str, expected: str, value: object) -> RequestError:
    return RequestError(
        f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead.",
        param=param,
        code="invalid_type",
    )


def wrong_value(param: str, why: str, code: str = "invalid_value") -> RequestError:
    return RequestError(f"Invalid '{param}': {why}", param=param, code=code)


def missing(param: str) -> RequestError:
    return RequestError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unknown(param: str) -> RequestError:
    return RequestError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def check_integer(value: object, param: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(param, "an integer", value)
    _check_range(value, param, low, high, "integer")
    return value


def check_decimal(value: object, param: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(param, "a decimal number", value)
    if value != value:
        raise wrong_value(param, "expected a decimal number, but got NaN instead.")
    _check_range(value, param, low, high, "decimal")
    return float(value)


def _check_range(value: float, param: str, low: float, high: float, noun: str) -> None:
    if value < low:
        why = f"{noun} below minimum value. Expected a value >= {low}, but got {_shown(value)} instead."
        raise wrong_value(param, why, f"{noun}_below_min_value")
    if value > high:
        why = f"{noun} above maximum value. Expected a value <= {high}, but got {_shown(value)} instead."
        raise wrong_value(param, why, f"{noun}_above_max_value")


def _shown(value: float) -> str:
    # Python refuses to print integers of more than 4,300 digits, which JSON may hold.
    return str(value) if abs(value) < 1e100 else "one beyond 1e100"


def check_text(value: object, param: str) -> str:
    """A string that UTF-8 can hold: JSON can spell half a surrogate pair, which no tokenizer can encode."""
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong_value(param, "expected Unicode text, but it holds half a surrogate pair.") from None
    return value


def check_array(value: object, param: str, of: str, *, shortest: int = 0, longest: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise wrong_type(param, f"an array of {of}", value)
    if len(value) < shortest:
        raise wrong_value(
            param,
            f"empty array. Expected an array with minimum length {shortest}, but got an empty array instead.",
            "empty_array",
        )
    if longest is not None and len(value) > longest:
        raise wrong_value(
            param,
            f"array too long. Expected an array with maximum length {longest}, "
            f"but got an array with length {len(value)} instead.",
            "array_above_max_length",
        )
    return value
