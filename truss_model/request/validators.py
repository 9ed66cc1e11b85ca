"""The rules for single fields of a request body, each stated once, in OpenAI's words and codes. Knows no field by name.

Every check returns the value it was given, with its type known, and raises RequestError with `param` and `code`.
"""

from collections.abc import Mapping, Sequence
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
        return "a decimal"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "an array"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def wrong_type(param: str, expected: str, value: object) -> RequestError:
    return RequestError(
        f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead.",
        param=param,
        code="invalid_type",
    )


def wrong_value(param: str, why: str, code: str = "invalid_value") -> RequestError:
    return RequestError(f"Invalid '{param}': {why}.", param=param, code=code)


def invalid_schema(param: str, why: str) -> RequestError:
    return RequestError(f"Invalid schema for '{param}': {why}.", param=param, code="invalid_schema")


def missing(param: str) -> RequestError:
    return RequestError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def check_known(fields: Mapping[str, Any], known: frozenset[str], path: str = "") -> None:
    """Every key must be a known one, unless its value is null; `path` is where the object stands in the body."""
    for key, value in fields.items():
        if key not in known and value is not None:
            param = f"{path}.{str(key)[:64]}" if path else str(key)[:64]
            raise RequestError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def check_boolean(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)
    return value


def check_integer(value: object, param: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(param, "an integer", value)
    _check_range(value, param, low, high, "integer")
    return value


def check_decimal(value: object, param: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(param, "a decimal", value)
    if value != value:
        raise wrong_value(param, "expected a decimal, but got NaN instead")
    _check_range(value, param, low, high, "decimal")
    return float(value)


def _check_range(value: float, param: str, low: float, high: float, noun: str) -> None:
    if value < low:
        why = f"{noun} below minimum value. Expected a value >= {low}, but got {_printed(value)} instead"
        raise wrong_value(param, why, f"{noun}_below_min_value")
    if value > high:
        why = f"{noun} above maximum value. Expected a value <= {high}, but got {_printed(value)} instead"
        raise wrong_value(param, why, f"{noun}_above_max_value")


def _printed(value: float) -> str:
    # Python refuses to print integers of more than 4,300 digits, which JSON may hold.
    return str(value) if abs(value) < 1e100 else "one beyond 1e100"


def check_string(value: object, param: str) -> str:
    """A string that UTF-8 can hold: JSON can spell half a surrogate pair, which no tokenizer can encode."""
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong_value(param, "expected Unicode text, but it holds half of a surrogate pair") from None
    return value


def check_choice(value: object, param: str, choices: Sequence[str]) -> str:
    if check_string(value, param) not in choices:
        raise wrong_value(param, f"expected {_listed(choices)}, but got '{str(value)[:64]}' instead")
    return str(value)


def _listed(choices: Sequence[str]) -> str:
    *others, last = (f"'{choice}'" for choice in choices)
    return f"{', '.join(others)} or {last}" if others else last


def check_object(value: object, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong_type(param, "an object", value)
    return value


def check_array(value: object, param: str, of: str, *, shortest: int = 0, longest: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise wrong_type(param, f"an array of {of}", value)
    if len(value) < shortest:
        raise wrong_value(
            param,
            f"empty array. Expected an array with minimum length {shortest}, but got an empty array instead",
            "empty_array",
        )
    if longest is not None and len(value) > longest:
        raise wrong_value(
            param,
            f"array too long. Expected an array with maximum length {longest}, "
            f"but got an array with length {len(value)} instead",
            "array_above_max_length",
        )
    return value


def required(fields: Mapping[str, Any], key: str, path: str) -> Any:
    """The value at `key` of the object that stands at `path`; null counts as a value."""
    if key not in fields:
        raise missing(f"{path}.{key}")
    return fields[key]


def required_string(fields: Mapping[str, Any], key: str, path: str) -> str:
    return check_string(required(fields, key, path), f"{path}.{key}")


def optional_string(fields: Mapping[str, Any], key: str, path: str) -> str | None:
    return None if fields.get(key) is None else check_string(fields[key], f"{path}.{key}")


def optional_boolean(fields: Mapping[str, Any], key: str, path: str) -> bool:
    return False if fields.get(key) is None else check_boolean(fields[key], f"{path}.{key}")
