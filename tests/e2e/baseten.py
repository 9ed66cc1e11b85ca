"""Baseten's platform on the loopback: the API that `truss push` and `truss predict` call, and the hosted endpoints.

Deploying is the test's part: it takes the archive, serves it, and sets `truss` to where it runs.
"""

import asyncio
import io
import json
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

MODEL_ID = "abcd1234"
DEPLOYMENT_ID = "v0000001"
API_KEY = "k-loopback"
REQUEST_ID = "r-async-1"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the platform says instead of asking the model."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request at a hosted endpoint."""

    target: str
    authorization: str
    accept: str
    body: dict[str, Any]


class Baseten:
    """Serves on a thread of its own while the `with` block runs."""

    def __init__(self) -> None:
        self.archive: bytes | None = None
        self.pushed: list[dict[str, Any]] = []
        self.calls: list[Call] = []
        self.truss: str | None = None
        self.refusals: dict[str, Refusal] = {}
        self.asleep: dict[str, threading.Event] = {}
        self._queued: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="baseten", daemon=True)

    def extract(self, folder: Path) -> list[str]:
        """Unpack what was pushed; return the names of its files."""
        assert self.archive is not None, "nothing was pushed"
        with tarfile.open(fileobj=io.BytesIO(self.archive)) as tar:
            tar.extractall(folder, filter="data")
            return sorted(member.name for member in tar.getmembers() if member.isfile())

    def endpoint(self, target: str, model_id: str = MODEL_ID) -> str:
        """A hosted predict URL: `model-ID.api.baseten.co/TARGET/predict`, here with the host as the first folder."""
        return f"{self.url}/model-{model_id}/{target}/predict"

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        app = web.Application(client_max_size=100 * 2**20)
        app.router.add_post("/graphql/", self._graphql)
        app.router.add_put("/bucket/{key:.*}", self._upload)
        app.router.add_post("/model-{model_id}/{target:.+}/async_predict", self._queue)
        app.router.add_post("/model-{model_id}/{target:.+}/sync/{route:.+}", self._hosted)
        app.router.add_post("/model-{model_id}/{target:.+}/{last:predict}", self._hosted)
        app.router.add_post("/model-{model_id}/{last:predict}", self._hosted)
        self._client = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for event in self.asleep.values():
            event.set()
        await asyncio.gather(*self._queued)
        await self._runner.cleanup()
        await self._client.close()

    async def _graphql(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") not in (f"Bearer {API_KEY}", f"Api-Key {API_KEY}"):
            return web.json_response({"errors": [{"message": "Unauthorized"}]}, status=401)
        asked = await request.json()
        query = " ".join(asked["query"].split())
        return web.json_response({"data": self._answer(query, asked.get("variables") or {})})

    def _answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        oracle = {"id": MODEL_ID, "name": "mistral-7b", "hostname": f"{self.url}/model-{MODEL_ID}"}
        version = {"id": DEPLOYMENT_ID, "oracle": oracle, "instance_type": {"name": "A10G:4x24"}}
        if "Teams" in query:
            return {"teams": [{"id": "t1", "name": "Default", "default": True}]}
        if "create_model_from_truss" in query:
            self.pushed.append({"query": query, **variables})
            return {"create_model_from_truss": {"model_version": version}}
        if "truss_validation" in query:
            return {"truss_validation": {"success": True, "details": "{}"}}
        if "model_s3_upload_credentials" in query:
            keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"), "x")
            place = {"s3_bucket": "bucket", "s3_key": "truss.tar", "endpoint_url": self.url, "region_name": "us-east-1"}
            return {"model_s3_upload_credentials": {**keys, **place}}
        if "model_version(" in query:
            return {"model_version": {"oracle": oracle, "id": DEPLOYMENT_ID, "is_primary": True}}
        if "model(" in query:
            return {"model": {**oracle, "primary_version": {"id": DEPLOYMENT_ID}}}
        if "models(" in query:
            return {"models": []}
        raise AssertionError(f"The API does not know this query: {query}")

    async def _upload(self, request: web.Request) -> web.Response:
        self.archive = await request.read()
        return web.Response(headers={"ETag": '"x"'})

    async def _hosted(self, request: web.Request) -> web.StreamResponse:
        target = request.match_info.get("target", "")
        authorization = request.headers.get("Authorization", "")
        body = await request.json()
        self.calls.append(Call(target, authorization, request.headers.get("Accept", ""), body))
        if authorization not in (f"Api-Key {API_KEY}", f"Bearer {API_KEY}"):
            return _platform_error(401, "unauthorized", "Unauthorized")
        if request.match_info["model_id"].split("-")[0] != MODEL_ID:
            return _platform_error(404, "model_does_not_exist", "Model does not exist")
        if (event := self.asleep.get(target)) is not None:
            await asyncio.to_thread(event.wait)
        if (refusal := self.refusals.get(target)) is not None:
            return web.Response(status=refusal.status, body=refusal.body, headers=refusal.headers)
        return await self._forward(request, body)

    async def _queue(self, request: web.Request) -> web.Response:
        """Answer at once; ask the model later and tell the webhook."""
        if request.headers.get("Authorization") != f"Api-Key {API_KEY}":
            return _platform_error(401, "unauthorized", "Unauthorized")
        asked = await request.json()
        self._queued.append(asyncio.create_task(self._tell(asked["model_input"], asked["webhook_endpoint"])))
        return web.json_response({"request_id": REQUEST_ID}, status=201)

    async def _tell(self, body: dict[str, Any], webhook: str) -> None:
        async with self._client.post(f"{self.truss}", json=body) as answer:
            told = {"request_id": REQUEST_ID, "model_id": MODEL_ID, "data": await answer.json(), "errors": []}
        async with self._client.post(webhook, json=told) as heard:
            await heard.read()

    async def _forward(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in ("Accept", "User-Agent") if name in request.headers}
        url = f"{self.truss}"
        if (route := request.match_info.get("route")) is not None:
            url = f"{url.partition('/v1/')[0]}/{route}"
        async with self._client.post(url, data=json.dumps(body), headers=headers) as upstream:
            kept = {"Content-Type": upstream.headers.get("Content-Type", ""), "X-Baseten-Request-Id": "r-1"}
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def _platform_error(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"error": text, "error_code": code}, status=status)
