"""A streaming client of any OpenAI-compatible server that notes when each piece of text came. Knows no workload."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.prompts import Message

LONGEST_ANSWER = 600.0  # seconds


class RequestFailed(Exception):
    """The server refused the request, or ended the stream with an error or without a finish_reason."""


@dataclass(slots=True)
class Answer:
    """`stamps`: the clock's time at every piece of text. Token counts are the server's, None where it has none."""

    sent: float
    stamps: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    ended: float = 0.0

    @property
    def tokens(self) -> int:
        return self.completion_tokens if self.completion_tokens is not None else len(self.stamps)

    @property
    def first(self) -> float:
        """Seconds to the first piece of text."""
        return self.stamps[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.stamps, self.stamps[1:], strict=False)]


class ChatClient:
    """One server. `forced`: it knows `ignore_eos`, so that every answer has exactly the length asked for."""

    def __init__(self, url: str, model: str, *, forced: bool) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._forced = forced

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=LONGEST_ANSWER)
        # A new connection for each request: llama.cpp's server closes kept ones while the next request is on its way.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, messages: Sequence[Message], max_tokens: int, **more: Any) -> Answer:
        """Greedy. Raises RequestFailed."""
        body = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if self._forced else {}),
            **more,
        }
        answer = Answer(time.perf_counter())
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise RequestFailed(f"{response.status}: {(await response.text())[:500]}")
            await self._read(response, answer)
        answer.ended = time.perf_counter()
        if answer.finish_reason is None or not answer.stamps:
            raise RequestFailed(f"The stream of {self._url} ended early, after {len(answer.stamps)} pieces of text.")
        return answer

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer) -> None:
        rest = b""
        async for piece in response.content.iter_any():
            now = time.perf_counter()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    _take(json.loads(data), now, answer)


def _take(event: dict[str, Any], now: float, answer: Answer) -> None:
    if "error" in event:
        raise RequestFailed(str(event["error"]))
    for choice in event.get("choices") or ():
        if text := choice["delta"].get("content"):
            answer.text += text
            answer.stamps.append(now)
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    if usage := event.get("usage"):
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.completion_tokens = usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
