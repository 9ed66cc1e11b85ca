"""A Truss whose model says what a test tells it to: the predict contract on a real socket, without a model."""

import asyncio
import json
import math
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

Event = dict[str, Any]


class Gate:
    """A point in a script that waits for the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = asyncio.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def wait(self) -> None:
        await self._open.wait()


Step = Event | Gate


class ServerThread:
    """An ASGI app on a free port of this machine, in a thread of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._run)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        self.loop.close()


class ScriptedTruss:
    """Answers each prompt with the steps laid down for it, and an unknown one with its own words."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.left = threading.Event()
        """Set when a caller went away before its script was over."""
        self._scripts: dict[str, Sequence[Step]] = {}
        self._refusals: dict[str, Response] = {}
        self.server = ServerThread(Starlette(routes=[Route("/predict", self._predict, methods=["POST"])]))

    def gate(self) -> Gate:
        return Gate(self.server.loop)

    def answer(self, prompt: str, steps: Iterable[Step], *, finish: str | None = "stop") -> None:
        """`finish=None` ends the stream quietly half-way."""
        self._scripts[prompt] = [*steps, *ending(finish)] if finish else list(steps)

    def refuse(self, prompt: str, status: int, error: dict[str, str | None], headers: dict[str, str]) -> None:
        self._refusals[prompt] = JSONResponse({"error": error}, status, headers)

    async def _predict(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        if prompt in self._refusals:
            return self._refusals[prompt]
        steps = self._scripts.get(prompt) or [text(word) for word in pieces(prompt)] + ending("stop")
        return StreamingResponse(self._lines(steps), media_type="application/octet-stream")

    async def _lines(self, steps: Sequence[Step]) -> AsyncIterator[bytes]:
        yield line({"event": "start", "prompt_tokens": 27, "cached_tokens": 16, "model": "scripted"})
        try:
            for step in steps:
                if isinstance(step, Gate):
                    await step.wait()
                else:
                    yield line(step)
        except asyncio.CancelledError:
            self.left.set()
            raise


def line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"


def pieces(words: str) -> list[str]:
    return [word if at == 0 else " " + word for at, word in enumerate(words.split(" "))]


def text(piece: str, *, probability: float | None = None) -> Event:
    """One token's delta; with a probability it has logprobs, and one alternative."""
    event: Event = {"event": "delta", "index": 0, "text": piece}
    if probability is not None:
        chosen = entry(piece, probability)
        others = [entry(f"{piece}!", (1 - probability) / 2)]
        event["logprobs"] = [{**chosen, "top_logprobs": [chosen, *others]}]
    return event


def entry(piece: str, probability: float) -> Event:
    return {"token": piece, "logprob": math.log(probability), "bytes": list(piece.encode())}


def tool_call(name: str, *arguments: str) -> list[Event]:
    first, *rest = arguments
    base = {"event": "tool_call", "index": 0, "call": 0}
    return [
        {**base, "id": "call_00000001", "name": name, "arguments": first},
        *({**base, "arguments": piece} for piece in rest),
    ]


def ending(reason: str) -> list[Event]:
    usage = {"prompt_tokens": 27, "completion_tokens": 12, "total_tokens": 39, "cached_tokens": 16}
    return [{"event": "finish", "index": 0, "reason": reason}, {"event": "done", "usage": usage}]
