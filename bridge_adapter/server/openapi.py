"""The OpenAPI description of the operations, whose routes FastAPI does not know."""

from typing import Any

from fastapi import FastAPI

from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.openai_api.schemas import ERROR

_ERRORS = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No key, or a wrong one.",
    "403": "The key may not use this model.",
    "404": "No such model.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "A limit is reached; retry after the time in `retry-after`.",
    "502": "The model's server sent an unusable answer.",
    "503": "The model's server cannot be reached or is not ready.",
    "504": "The model's server was too slow.",
}


def operation(path: str, *, by_id: bool) -> dict[str, Any]:
    described = OPERATIONS[path]
    responses: dict[str, Any] = {
        "200": {
            "description": "The answer; with `stream` its pieces as server-sent events.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}, "example": described.event_example},
            },
        }
    }
    for status, text in _ERRORS.items():
        responses[status] = {"description": text, "content": {"application/json": {"schema": ERROR}}}
    parameter = {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "tags": ["generation"],
        "summary": described.summary + (" of a deployment" if by_id else ""),
        "operationId": path.strip("/").replace("/", "_") + ("_by_id" if by_id else ""),
        "parameters": [parameter] if by_id else [],
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": described.schema}}},
        "responses": responses,
    }


def describe(app: FastAPI) -> None:
    """Make the app's description hold the operations too."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in OPERATIONS:
            schema["paths"][f"/v1{path}"] = {"post": operation(path, by_id=False)}
            schema["paths"][f"/{{model_id}}/v1{path}"] = {"post": operation(path, by_id=True)}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
