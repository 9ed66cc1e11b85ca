"""Limits of a caller's JSON schema, checked before anything walks or compiles it. Knows no grammar."""

from typing import Any

from truss_model.request.validators import check_object, check_string, invalid_schema

# Depth keeps every recursive walk after this one off the interpreter's limit. The cost of a grammar grows with the
# alternatives at one place: 2,000 members are compiled in half a second at worst, and with 300 optional ones, any of
# which may come next, a mask still takes 4 ms.
MAX_DEPTH = 64
MAX_VALUES = 20_000
MAX_CHARACTERS = 500_000
MAX_MEMBERS = 2_000
MAX_OPTIONAL = 300
MAX_PATTERN = 2_000
_ALTERNATIVES = ("anyOf", "oneOf", "allOf", "prefixItems")


def check_schema(schema: Any, path: str) -> None:
    """Raise RequestError for a value that is not a schema or is too large to be compiled; `path` names it."""
    check_object(schema, path)
    values = characters = members = 0
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            values += 1
            if isinstance(value, str):
                characters += len(check_string(value, path))
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                characters += len(check_string("".join(value), path))
                members += _members(value, path)
                below += value.values()
        if values + len(below) > MAX_VALUES or characters > MAX_CHARACTERS:
            raise invalid_schema(path, f"larger than {MAX_VALUES} values or {MAX_CHARACTERS} characters")
        if members > MAX_MEMBERS:
            raise invalid_schema(path, f"more than {MAX_MEMBERS} properties and alternatives")
        if not below:
            return
        level = below
    raise invalid_schema(path, f"nested deeper than {MAX_DEPTH} levels")


def _members(value: dict[str, Any], path: str) -> int:
    """Properties and alternatives of one subschema."""
    pattern = value.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise invalid_schema(path, f"a pattern longer than {MAX_PATTERN} characters")
    members = sum(len(value[key]) for key in _ALTERNATIVES if isinstance(value.get(key), list))
    properties, required = value.get("properties"), value.get("required")
    if not isinstance(properties, dict):
        return members
    listed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    if len(properties.keys() - listed) > MAX_OPTIONAL:
        raise invalid_schema(path, f"more than {MAX_OPTIONAL} optional properties in one object")
    return members + len(properties)
