"""The adapter on a real socket inside a test's event loop, and a client that keeps what came over the wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import uvicorn
from openai import AsyncOpenAI
from uvicorn.server import ServerState

from bridge_adapter.server.app import create_app
from bridge_adapter.server.http_protocol import BridgeProtocol
from bridge_adapter.server.state import AdapterState
from bridge_adapter.settings import AdapterSettings


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> list[str]:
        """The data of every event of a stream, as it is; fails if there is anything but events and comments."""
        parts = self.body.decode().split("\n\n")
        assert parts.pop() == ""
        parts = [part for part in parts if not part.startswith(":")]
        assert all(part.startswith("data: ") and "\n" not in part for part in parts)
        return [part.removeprefix("data: ") for part in parts]

    @property
    def chunks(self) -> list[Any]:
        """The JSON of every event but the last, which must be [DONE]."""
        *data, done = self.data
        assert done == "[DONE]"
        return [json.loads(item) for item in data]

    @property
    def text(self) -> str:
        """The content of the first choice of a stream."""
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == 0)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A running adapter."""

    url: str
    state: AdapterState
    http: aiohttp.ClientSession
    openai: AsyncOpenAI
    default_headers: dict[str, str] = field(default_factory=dict)

    async def idle(self) -> None:
        """Return when no request is being answered."""
        while self.state.in_flight:
            await asyncio.sleep(0.01)

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answered:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **self.default_headers, **(headers or {})}
        async with self.http.post(self.url + path, data=data, headers=sent) as response:
            return Answered(response.status, response.headers, await response.read())

    async def chat(self, body: Mapping[str, Any] | None = None, **fields: Any) -> Answered:
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **(body or {}), **fields}
        return await self.post("/v1/chat/completions", asked)

    @asynccontextmanager
    async def streaming(self, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A chat's stream from its first header on; what comes is the block's to read."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=asked) as response:
            yield response

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        async with self.http.get(self.url + path, headers={**self.default_headers, **(headers or {})}) as response:
            return Answered(response.status, response.headers, await response.read())


def settings_for(url: str, **parts: Any) -> AdapterSettings:
    """A models table with `m` at this URL; `model` holds more of its row, other names are parts of the file."""
    model = {"url": url, "retries": {"backoff": 0.0}, **parts.pop("model", {})}
    server = {"web": False, **parts.pop("server", {})}
    tree = {"models": {"m": model}, "server": server, "observe": {"access_log": "off"}, **parts}
    return msgspec.convert(tree, AdapterSettings)


@asynccontextmanager
async def running_bridge(settings: AdapterSettings, *, api_key: str = "unused") -> AsyncIterator[Bridge]:
    app = create_app(settings)
    config = uvicorn.Config(app, access_log=False, log_level="warning", ws="none")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    async with app.router.lifespan_context(app):
        server = await loop.create_server(lambda: BridgeProtocol(config, state, {}), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as http,
                AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0) as client,
            ):
                yield Bridge(url, app.state.adapter, http, client)
        finally:
            server.close()
            for connection in list(state.connections):
                connection.shutdown()
            if state.tasks:
                await asyncio.wait(state.tasks, timeout=30)
            assert not state.tasks, "a request was still running when its test had ended"
