"""Limits of a caller's JSON schema, checked before anything walks or compiles it. Knows no grammar."""

from typing import Any, NoReturn

from truss_model.errors import RequestError
from truss_model.unicode import check_unicode

# A compile takes quadratic time in an object's properties: 1,000 are 0.2 s. Depth keeps every recursive walk after
# this one off the interpreter's limit.
MAX_DEPTH = 64
MAX_VALUES = 20_000
MAX_CHARACTERS = 500_000
MAX_MEMBERS = 1_000
MAX_PATTERN = 2_000


def check_schema(schema: Any, path: str) -> None:
    """Refuse what is no schema, or too large a one to be compiled while others wait; `path` names it."""
    if not isinstance(schema, dict):
        _refuse(path, "expected a JSON schema object")
    values = characters = 0
    level: list[Any] = [schema]
    for depth in range(MAX_DEPTH + 1):
        if not level:
            return
        if depth == MAX_DEPTH:
            _refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for value in level:
            values += 1
            if isinstance(value, str):
                characters += len(check_unicode(value, path))
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                characters += len(check_unicode("".join(value), path))
                _check_keywords(value, path)
                below += value.values()
        if values + len(below) > MAX_VALUES or characters > MAX_CHARACTERS:
            _refuse(path, f"larger than {MAX_VALUES} values or {MAX_CHARACTERS} characters")
        level = below


def _check_keywords(value: dict[str, Any], path: str) -> None:
    for keyword in ("properties", "anyOf", "oneOf", "allOf", "prefixItems", "required"):
        members = value.get(keyword)
        if isinstance(members, dict | list) and len(members) > MAX_MEMBERS:
            _refuse(path, f"more than {MAX_MEMBERS} members in one '{keyword}'")
    pattern = value.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        _refuse(path, f"a pattern longer than {MAX_PATTERN} characters")


def _refuse(path: str, why: str) -> NoReturn:
    raise RequestError(f"Invalid schema for '{path}': {why}.", param=path, code="invalid_schema")
