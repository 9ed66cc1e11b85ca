"""The upstream calls of one job, told as one answer. Knows no face of OpenAI's API and no bytes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from bridge_adapter import upstream_errors
from bridge_adapter.dialects import Heard, decoder_for, read_body
from bridge_adapter.errors import APIError
from bridge_adapter.exchange import Exchange
from bridge_adapter.jobs import Job
from bridge_adapter.outside import OutsideWork
from bridge_adapter.reader import Merge, Reader
from bridge_adapter.routing import Route
from bridge_adapter.shapes import shape
from bridge_adapter.upstream import Answer, TrussClient
from bridge_adapter.watch import Watch
from bridge_adapter.whole import ErrorInside
from bridge_adapter.wire import Broken, Choice, Event, Result, Usage

_CALLS_AT_ONCE = 16
_Item = tuple[int, list[Event] | Exception]


class _Reshaped(Exception):
    """The upstream turned out to speak another dialect, for which the job needs other calls."""


class Generation:
    """One job on its way. Use `events` or `whole`, once."""

    def __init__(self, client: TrussClient, route: Route, job: Job, exchange: Exchange, watch: Watch) -> None:
        self._client = client
        self._route = route
        self._job = job
        self._exchange = exchange
        self._watch = watch
        self._bodies: list[dict[str, Any]] = []
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """Batches in the contract's order; raises APIError after what came before the fault."""
        while True:
            self._shape()
            calls = self._call(0) if len(self._bodies) == 1 else self._merged()
            try:
                async with aclosing(calls) as batches:
                    async for batch in batches:
                        yield batch
                return
            except _Reshaped:  # raised before the first batch, and only once: the dialect is known then
                continue

    async def whole(self) -> Result:
        while True:
            self._shape()
            try:
                return await (self._answer(0) if len(self._bodies) == 1 else self._answers())
            except _Reshaped:
                continue

    def _shape(self) -> None:
        upstream = self._route.upstream
        self._bodies = shape(self._job, upstream.speaks, upstream.model)

    @property
    def _choices_a_call(self) -> int:
        return self._job.choices // len(self._bodies)

    def _wanted(self, number: int) -> dict[str, Any]:
        """The body of the job that call `number` belongs to, with what the dialect may have left out."""
        return self._job.bodies[number * len(self._job.bodies) // len(self._bodies)]

    def _learn(self, heard: Heard | None) -> None:
        upstream = self._route.upstream
        if heard is None or heard == upstream.speaks:
            return
        upstream.learned = heard
        # Raises for what the dialect cannot do: better a refusal now than a parameter that had no effect.
        if heard == "text" and len(shape(self._job, "text", upstream.model)) != len(self._bodies):
            raise _Reshaped

    async def _open(self, number: int, *, stream: bool) -> Answer:
        body = orjson.dumps(self._bodies[number])
        return await self._client.open(self._route, body, self._exchange, stream=stream)

    async def _call(self, number: int) -> AsyncGenerator[list[Event], None]:
        answer = await self._open(number, stream=True)
        reader: Reader | None = None
        try:
            decoder = decoder_for(self._route.upstream.dialect, answer.content_type)
            reader = Reader(decoder, self._choices_a_call, self._wanted(number))
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    self._watch.heard()
                    events = reader.feed(piece)
                    if events:
                        self._learn(decoder.dialect)
                        yield events
                    if reader.fault is not None:
                        raise reader.fault
                    if reader.ended:
                        return
                    self._watch.waits()
            events = reader.end()
            if events:
                self._learn(decoder.dialect)
                yield events
            if reader.fault is not None:
                raise reader.fault
        except (Broken, ErrorInside) as fault:
            raise _told(fault) from fault
        finally:
            await answer.close(drain=reader is not None and reader.ended and not reader.cut_short)

    async def _merged(self) -> AsyncGenerator[list[Event], None]:
        queue: asyncio.Queue[_Item] = asyncio.Queue(_CALLS_AT_ONCE)
        tasks = [asyncio.create_task(self._pump(number, queue)) for number in range(len(self._bodies))]
        merge = Merge(len(self._bodies), self._choices_a_call)
        try:
            while merge.running:
                number, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                events = merge.feed(number, item)
                if events:
                    yield events
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, number: int, queue: asyncio.Queue[_Item]) -> None:
        try:
            async with self._room, aclosing(self._call(number)) as batches:
                async for batch in batches:
                    await queue.put((number, batch))
        except Exception as error:
            await queue.put((number, error))

    async def _answers(self) -> Result:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer_in_turn(number)) for number in range(len(self._bodies))]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        usage = Usage()
        choices: list[Choice] = []
        for number, task in enumerate(tasks):
            result = task.result()
            usage = usage.add(result.usage)
            for choice in result.choices:
                choice.index += number * self._choices_a_call
            choices += result.choices
        return Result(choices, usage)

    async def _answer_in_turn(self, number: int) -> Result:
        async with self._room:
            return await self._answer(number)

    async def _answer(self, number: int) -> Result:
        answer = await self._open(number, stream=False)
        try:
            self._watch.heard()
            self._watch.waits()
            heard, result = read_body(self._route.upstream.dialect, answer.content_type, await answer.read())
            self._learn(heard)
            if sorted(choice.index for choice in result.choices) != list(range(self._choices_a_call)):
                raise Broken("other choices than were asked for")
        except (Broken, ErrorInside) as fault:
            raise _told(fault) from fault
        finally:
            await answer.close(drain=False)
        if heard == "text":
            result.choices = [OutsideWork(self._wanted(number)).choice(choice) for choice in result.choices]
        return result


def _told(fault: Broken | ErrorInside) -> APIError:
    if isinstance(fault, Broken):
        return upstream_errors.broken(str(fault))
    return upstream_errors.error_inside(fault.body)
