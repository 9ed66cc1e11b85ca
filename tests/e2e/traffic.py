"""Mixed traffic over the whole stack: every answer is compared with what the same request got alone."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import AsyncOpenAI

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
PREFIX = "You are asked about bridges, and you answer at length. " * 6
LONGEST_WAIT = 120.0  # seconds; an answer that takes longer counts as hung


def request(text: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}


ENDLESS = {"extra_body": {"ignore_eos": True}}
GOOD: dict[str, dict[str, Any]] = {
    **{f"short {i}": request(f"Say {i}.", 8) for i in range(4)},
    **{f"long {i}": request(f"{PREFIX} Question {i}?", 160, **ENDLESS) for i in range(4)},
    "long prompt": request("word " * 1200, 12),
    "one token": request("Hi", 1),
    "choices": request("Name some.", 24, n=3),
    "stop": request(f"{PREFIX} Stop.", 200, stop=["a", "e"], **ENDLESS),
    "logprobs": request("Hi", 12, logprobs=True, top_logprobs=3),
    "tool": request("Look it up.", 100, tools=[TOOL], tool_choice="required"),
    "schema": request(
        "Is it?",
        100,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
    ),
}
BAD: dict[str, dict[str, Any]] = {
    "bad temperature": request("Hi", 4) | {"temperature": 9},
    "bad messages": request("Hi", 4) | {"messages": []},
    "bad field": request("Hi", 4, extra_body={"no_such_field": 1}),
    "too long": request("word " * 3000, 4),
}


@dataclass(slots=True)
class Tally:
    """What the clients saw. `wrong` and `hung` hold what to look at; both must stay empty."""

    right: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    sent: int = 0


class Traffic:
    """The expected answers, and clients that ask until they are told to stop. All ask through `client`."""

    def __init__(self, client: AsyncOpenAI, seed: int) -> None:
        self.client = client
        self._random = random.Random(seed)
        self._expected: dict[str, str] = {}
        self.tally = Tally()

    async def learn(self) -> None:
        """Ask each request alone; that is the answer it must get in any company."""
        for name, body in GOOD.items():
            self.tally.sent += 1
            self._expected[name] = await self._plain(body)

    async def run(self, clients: int, end: float) -> None:
        """`clients` ask side by side until time.monotonic() reaches `end`, and each finishes its last request."""
        await asyncio.gather(*(self._client_loop(random.Random(self._random.random()), end) for _ in range(clients)))

    async def _client_loop(self, chance: random.Random, end: float) -> None:
        steps: list[tuple[float, Callable[[random.Random], Awaitable[None]]]] = [
            (4, self._ask_plain),
            (4, self._ask_streamed),
            (1, self._read_slowly),
            (2, self._leave),
            (1, self._ask_badly),
        ]
        weights, actions = zip(*steps, strict=True)
        while time.monotonic() < end:
            action = chance.choices(actions, weights)[0]
            self.tally.sent += 1
            try:
                await asyncio.wait_for(action(chance), LONGEST_WAIT)
            except TimeoutError:
                self.tally.hung.append(action.__name__)
            except openai.RateLimitError:
                self.tally.refused["full"] += 1
            except openai.APIError as error:
                self.tally.wrong.append(f"{action.__name__}: {error!r}")

    async def _ask_plain(self, chance: random.Random) -> None:
        name = chance.choice(list(GOOD))
        self._compare(name, await self._plain(GOOD[name]), "plain")

    async def _ask_streamed(self, chance: random.Random) -> None:
        name = chance.choice(list(GOOD))
        self._compare(name, await self._streamed(GOOD[name]), "streamed")

    async def _read_slowly(self, chance: random.Random) -> None:
        name = chance.choice([name for name in GOOD if name.startswith("long ")])
        self._compare(name, await self._streamed(GOOD[name], pause=chance.uniform(0.005, 0.03)), "slowly")

    async def _leave(self, chance: random.Random) -> None:
        """Close a stream after a few pieces, or give up a plain request after a moment."""
        body = GOOD[chance.choice(list(GOOD))]
        if chance.random() < 0.5:
            await self._streamed(body, leave_after=chance.randrange(8))
        else:
            asked = asyncio.create_task(self._plain(body))
            await asyncio.wait([asked], timeout=chance.uniform(0.0, 0.5))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        self.tally.left += 1

    async def _ask_badly(self, chance: random.Random) -> None:
        name = chance.choice(list(BAD))
        try:
            await self._plain(BAD[name])
        except openai.BadRequestError:
            self.tally.refused[name] += 1
        else:
            self.tally.wrong.append(f"{name}: was not refused")

    def _compare(self, name: str, got: str, how: str) -> None:
        if got == self._expected[name]:
            self.tally.right[how] += 1
        else:
            self.tally.wrong.append(f"{name} {how}: {got[:300]} instead of {self._expected[name][:300]}")

    async def _plain(self, body: dict[str, Any]) -> str:
        answer = await self.client.chat.completions.create(**body)
        return _canonical(
            [choice.message.content or "", _calls(choice.message.tool_calls), choice.finish_reason]
            for choice in answer.choices
        )

    async def _streamed(self, body: dict[str, Any], *, pause: float = 0.0, leave_after: int | None = None) -> str:
        held: dict[int, list[Any]] = {}
        async with await self.client.chat.completions.create(**body, stream=True) as stream:
            pieces = 0
            async for chunk in stream:
                for choice in chunk.choices:
                    text, calls, _ = held.setdefault(choice.index, ["", [], None])
                    for call in choice.delta.tool_calls or ():
                        if call.index == len(calls):
                            calls.append([call.function.name, ""])
                        calls[call.index][1] += call.function.arguments or ""
                    held[choice.index] = [text + (choice.delta.content or ""), calls, choice.finish_reason]
                pieces += 1
                if pieces == leave_after:
                    break
                if pause:
                    await asyncio.sleep(pause)
        return _canonical(held[index] for index in sorted(held))


def _calls(calls: Any) -> list[list[str]]:
    return [[call.function.name, call.function.arguments] for call in calls or ()]


def _canonical(choices: Any) -> str:
    return json.dumps(list(choices), ensure_ascii=False)
