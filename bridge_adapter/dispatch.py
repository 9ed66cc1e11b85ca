"""Path -> endpoint, ahead of FastAPI: what that and Starlette do around a handler is a fifth of a request's time."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send


class Dispatch:
    """Sends `POST /v1{path}` and `POST /{model_id}/v1{path}` to the path's endpoint, all else to `rest`."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        prefix, _, path = scope["path"].partition("/v1/")
        endpoint = self._endpoints.get(f"/{path}")
        if endpoint is None or (prefix and not _is_segment(prefix)):
            await self._rest(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        scope["path_params"] = {"model_id": prefix[1:]} if prefix else {}
        await endpoint(scope, receive, send)


def _is_segment(prefix: str) -> bool:
    return prefix.rfind("/") == 0 and len(prefix) > 1
