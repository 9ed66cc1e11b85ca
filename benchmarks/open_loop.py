"""Chat requests at a fixed rate, whatever becomes of them, from a process of its own. Prints one line of JSON.

`python -m benchmarks.open_loop '{"port": 8000, "model": "demo", "rate": 25, ...}'` (see Offer).
"""

import asyncio
import itertools
import json
import random
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from benchmarks.prompts import question

_TEXT = re.compile(rb'"content":"[^"]')
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
_END = b"\r\n0\r\n\r\n"
_HEAD_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Offer:
    """`rate` requests a second at random moments; without one `clients` that each ask again when they have an answer.

    After `seconds` nothing new is sent; what runs then is waited for. pace: milliseconds between the tokens of the mock
    upstream.
    """

    port: int
    model: str
    tokens: int
    seconds: float
    rate: float | None = None
    clients: int = 0
    nonce: int = 0
    pace: int | None = None
    key: str = "none"

    def request(self, number: int) -> bytes:
        body = json.dumps(
            {
                "model": self.model,
                "messages": question(self.nonce * 100_000 + number, "short"),
                "max_tokens": self.tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "seed": self.pace,
            }
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Outcome:
    """Seconds since the load began. status 0: the connection broke. `whole`: the answer came to its end."""

    sent: float
    status: int = 0
    told: float = 0.0
    first: float | None = None
    ended: float = 0.0
    retry_after: str | None = None
    whole: bool = False


class Load:
    """Connections are used again, as by any client that keeps a pool. began: as of time.monotonic."""

    def __init__(self, offer: Offer) -> None:
        self.outcomes: list[Outcome] = []
        self._offer = offer
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.began = time.monotonic()

    async def run(self) -> None:
        await (self._closed_loop() if self._offer.rate is None else self._open_loop(self._offer.rate))
        for _, writer in self._idle:
            writer.close()

    async def _open_loop(self, rate: float) -> None:
        draw = random.Random(self._offer.nonce)
        at, number = 0.0, 0
        async with asyncio.TaskGroup() as group:
            while (at := at + draw.expovariate(rate)) < self._offer.seconds:
                await asyncio.sleep(self.began + at - time.monotonic())
                group.create_task(self._ask(number))
                number += 1

    async def _closed_loop(self) -> None:
        numbers = itertools.count()

        async def client() -> None:
            while self._now() < self._offer.seconds:
                await self._ask(next(numbers))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._offer.clients):
                group.create_task(client())

    def _now(self) -> float:
        return time.monotonic() - self.began

    async def _ask(self, number: int) -> None:
        request = self._offer.request(number)
        outcome = Outcome(self._now())
        self.outcomes.append(outcome)
        try:
            reader, writer = connection = await self._connection()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            outcome.told = self._now()
            outcome.status = int(head[9:12])
            if (found := re.search(rb"\r\nretry-after: ([^\r]+)", head)) is not None:
                outcome.retry_after = found[1].decode()
            if (length := _LENGTH.search(head)) is not None:
                await reader.readexactly(int(length[1]))
            else:
                await self._follow(reader, outcome)
            self._idle.append(connection)
        except (OSError, asyncio.IncompleteReadError):
            pass
        outcome.ended = self._now()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._offer.port)

    async def _follow(self, reader: asyncio.StreamReader, outcome: Outcome) -> None:
        tail = b""
        while piece := await reader.read(_HEAD_LIMIT):
            tail = tail[-4096:] + piece
            if outcome.first is None and _TEXT.search(tail):
                outcome.first = self._now()
            if tail.endswith(_END):
                outcome.whole = b"data: [DONE]" in tail and b'"error":' not in tail
                return
        raise asyncio.IncompleteReadError(tail, None)


async def offer(load: Offer) -> list[dict[str, Any]]:
    running = Load(load)
    await running.run()
    return [asdict(outcome) for outcome in running.outcomes]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(offer(Offer(**json.loads(sys.argv[1]))))))
