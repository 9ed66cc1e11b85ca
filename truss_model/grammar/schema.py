"""JSON schemas before they become a grammar: closes objects, finds the place of a keyword. Pure; compiles nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_OPENING = ("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "$ref", "if")


def subschemas(schema: Mapping[str, Any], path: str = "#") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(JSON pointer, subschema) of the schema and of everything in it, outer ones first."""
    yield path, schema
    for key in schema:
        for name, below in _children(schema, key):
            yield from subschemas(below, f"{path}/{name}")


def close_objects(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same schema, in which an object with `properties` allows no others unless it says so.

    A model that may add members adds some until it is cut. Parts of a composition (allOf, or a reference beside other
    keywords) stay open: each of them has to allow the members of the others.
    """
    composed = {ref for _, part in subschemas(schema) for ref in _composed_references(part)}
    return _closed(schema, "#", composed, part_of_another=False)


def find_keyword(schema: Mapping[str, Any], key: str, value: object = None) -> str | None:
    """The JSON pointer of the first subschema with this keyword, and with this value if one is given."""
    for path, part in subschemas(schema):
        if key in part and value in (None, part[key]):
            return path
    return None


def _closed(schema: Mapping[str, Any], path: str, composed: set[str], *, part_of_another: bool) -> Mapping[str, Any]:
    closed = dict(schema)
    for key, value in schema.items():
        # An alternative beside `properties` describes the same object; one alone is an object of its own.
        part = key == "allOf" or (key in ("anyOf", "oneOf") and "properties" in schema)
        names = {
            name: _closed(below, f"{path}/{name}", composed, part_of_another=part)
            for name, below in _children(schema, key)
        }
        if key in _BY_NAME and isinstance(value, Mapping):
            closed[key] = {name: names.get(f"{key}/{name}", below) for name, below in value.items()}
        elif key in _LISTS and isinstance(value, list):
            closed[key] = [names.get(f"{key}/{index}", below) for index, below in enumerate(value)]
        elif key in names and key not in ("not", "if"):
            closed[key] = names[key]
    properties, required = schema.get("properties"), schema.get("required")
    names_required = required if isinstance(required, list) else ()
    described = isinstance(properties, Mapping) and all(name in [*properties] for name in names_required)
    if described and not part_of_another and path not in composed and not any(key in schema for key in _OPENING):
        closed["additionalProperties"] = False
    return closed


def _children(schema: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    value = schema[key]
    if key in _BY_NAME and isinstance(value, Mapping):
        yield from ((f"{key}/{name}", below) for name, below in value.items() if isinstance(below, Mapping))
    elif key in _LISTS and isinstance(value, list):
        yield from ((f"{key}/{index}", below) for index, below in enumerate(value) if isinstance(below, Mapping))
    elif key in _SINGLE and isinstance(value, Mapping):
        yield key, value


def _composed_references(schema: Mapping[str, Any]) -> Iterator[str]:
    parts = [schema] if len(schema.keys() - {"description", "title", "default", "$defs", "definitions"}) > 1 else []
    for key in ("allOf", *(("anyOf", "oneOf") if "properties" in schema else ())):
        branches = [below for _, below in _children(schema, key)] if key in schema else []
        parts += branches if len(branches) > 1 or "properties" in schema else []
    yield from (part["$ref"] for part in parts if isinstance(part.get("$ref"), str))
