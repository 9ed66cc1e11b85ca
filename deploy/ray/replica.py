"""One replica: the Model class in a Serve actor instead of the Truss server. Knows no HTTP but Starlette's objects."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deploy.ray.call import ROUTES, Head, ModelCall
from truss_model.model import Model, StreamedResponse

SECRET_PREFIX = "TRUSS_SECRET_"


class EnvironmentSecrets(Mapping[str, str]):
    """Truss's secrets out of TRUSS_SECRET_{name} variables, as its own server reads them on a developer's machine."""

    def __getitem__(self, name: str) -> str:
        return os.environ[SECRET_PREFIX + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(SECRET_PREFIX) for name in os.environ if name.startswith(SECRET_PREFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ModelReplica:
    """Loads when it is made; Serve counts it as running when that is done. `config_file`: the Truss's config.yaml."""

    def __init__(self, config_file: str) -> None:
        config = yaml.safe_load(Path(config_file).read_text("utf-8"))
        self._model = Model(config=config, secrets=EnvironmentSecrets())
        self._model.load()

    async def check_health(self) -> None:
        """Serve asks this periodically and replaces the replica when it raises."""
        if not await self._model.is_healthy():
            raise RuntimeError("The model's engine is not healthy.")

    async def answer(self, call: ModelCall) -> AsyncIterator[Head | bytes]:
        """The head, then the body. Serve cancels this when the caller has left, which drops the row."""
        result = await getattr(self._model, ROUTES[call.path])(call.body, _request(call))
        response = result if isinstance(result, Response) else JSONResponse(result)
        yield Head(response.status_code, dict(response.headers))
        if not isinstance(response, StreamedResponse):
            yield bytes(response.body)
            return
        try:
            async for piece in response.body_iterator:
                yield piece
        finally:
            if (close := getattr(response.body_iterator, "aclose", None)) is not None:
                await close()


def _request(call: ModelCall) -> Request:
    """What the Model class reads of a request: headers, and whether the caller is there. Serve cancels who has left.

    The body is not among it: the Truss server has parsed that as well by then.
    """

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    headers = {**call.headers, "content-length": str(call.size)}
    scope = {
        "type": "http",
        "method": "POST",
        "path": call.path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    return Request(scope, receive)
