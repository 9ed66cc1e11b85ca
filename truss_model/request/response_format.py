"""OpenAI's `response_format` -> the JSON schema that an answer must fit. Checks its size, compiles nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truss_model.request.json_schema import check_schema
from truss_model.request.validators import check_choice, check_object, optional_boolean, required


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """strict: refuse a schema with keywords that cannot be enforced; else they are left to the model."""

    schema: Mapping[str, Any]
    strict: bool


def parse_response_format(raw: object) -> JsonFormat | None:
    """None: free text. Raises RequestError with `param` such as `response_format.json_schema`."""
    if raw is None:
        return None
    fields, path = check_object(raw, "response_format"), "response_format"
    kind = check_choice(required(fields, "type", path), f"{path}.type", ["text", "json_object", "json_schema"])
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonFormat({"type": "object"}, strict=True)
    path = "response_format.json_schema"
    named = check_object(required(fields, "json_schema", "response_format"), path)
    schema = check_object(required(named, "schema", path), f"{path}.schema")
    strict = optional_boolean(named, "strict", path)
    check_schema(schema, "response_format")
    return JsonFormat(schema, strict)
