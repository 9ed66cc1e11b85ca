"""GET .../models and .../models/{name}: the names that a caller may use."""

import time
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bridge_adapter.errors import model_not_found
from bridge_adapter.openai_api.schemas import ERROR
from bridge_adapter.server.auth import key_of
from bridge_adapter.server.state import AdapterState
from bridge_adapter.telemetry.exchange import Exchange

_MODEL_SCHEMA = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_LIST_SCHEMA = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL_SCHEMA}},
}


_REFUSALS = {"401": "No key, or a wrong one.", "403": "The key may not use this.", "404": "No such model."}


def _docs(schema: dict[str, Any]) -> dict[str, Any]:
    told = {"200": ("OK", schema)} | {status: (text, ERROR) for status, text in _REFUSALS.items()}
    return {
        "responses": {
            status: {"description": text, "content": {"application/json": {"schema": shape}}}
            for status, (text, shape) in told.items()
        }
    }


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def models_router(state: AdapterState) -> APIRouter:
    router = APIRouter(tags=["models"])
    created = int(time.time())

    async def allowed(request: Request, model_id: str | None) -> list[str]:
        exchange: Exchange = request.state.exchange
        exchange.route = "models"
        state.check_open()
        key = key_of(request.headers.get("authorization"))
        caller = state.keyring.identify(key)
        exchange.client = caller.name
        exchange.add_headers(await caller.limits.admit())
        routes = state.router
        if model_id is not None:
            destination = routes.by_path(model_id, key)
            caller.check_model(destination.pool.name, destination.model)
            return [model_id]
        if caller.models is None:
            return routes.names
        return [name for name in routes.names if not caller.models.isdisjoint((name, routes.table_name(name)))]

    def answer(value: Any) -> Response:
        return Response(orjson.dumps(value), media_type="application/json")

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "truss"}

    async def list_models(request: Request) -> Response:
        names = await allowed(request, request.path_params.get("model_id"))
        return answer({"object": "list", "data": [described(name) for name in names]})

    async def retrieve_model(request: Request) -> Response:
        model_id, name = request.path_params.get("model_id"), request.path_params["name"]
        if not name.strip("/"):
            return await list_models(request)
        if name not in await allowed(request, model_id):
            raise model_not_found(name)
        return answer(described(name))

    for prefix, form in (("/v1", ""), ("/{model_id}/v1", " of a deployment")):
        parameters = [_parameter("model_id")] if form else []
        named = [*parameters, _parameter("name")]
        router.add_api_route(
            f"{prefix}/models",
            list_models,
            methods=["GET"],
            summary=f"List the models{form}",
            openapi_extra=_docs(_LIST_SCHEMA) | {"parameters": parameters},
        )
        router.add_api_route(
            f"{prefix}/models/{{name:path}}",
            retrieve_model,
            methods=["GET"],
            summary=f"Retrieve a model{form}",
            openapi_extra=_docs(_MODEL_SCHEMA) | {"parameters": named},
        )
    return router
