"""One of the two ways to OpenAI's routes, the adapter or the Truss itself, and OpenAI's client for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI, OpenAI


@dataclass(frozen=True, slots=True)
class Front:
    """`name` is adapter or truss. Each Truss has one model, so there the model decides who is asked."""

    name: str
    tiny: str
    smollm2: str

    def url(self, model: str = "tiny") -> str:
        """Where `/v1` of this model is; other names than `tiny` are aliases of `smollm2`."""
        return self.tiny if model == "tiny" else self.smollm2

    def client(self, **options: Any) -> OpenAI:
        from openai import DefaultHttpxClient, OpenAI

        http = DefaultHttpxClient(event_hooks={"request": [self._direct]})
        return OpenAI(**self._options(options), http_client=http)

    def async_client(self, **options: Any) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        async def direct(request: httpx2.Request) -> None:
            self._direct(request)

        http = DefaultAsyncHttpxClient(event_hooks={"request": [direct]})
        return AsyncOpenAI(**self._options(options), http_client=http)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": "none", "base_url": f"{self.smollm2}/v1", "max_retries": 0, "timeout": 60, **options}

    def _direct(self, request: httpx2.Request) -> None:
        if self.tiny != self.smollm2 and json.loads(request.content).get("model") == "tiny":
            request.url = type(request.url)(f"{self.tiny}{request.url.path}")
