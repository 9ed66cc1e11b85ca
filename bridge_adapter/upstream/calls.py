"""The upstream calls of one job, merged into one answer. Knows no OpenAI operation and no bytes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from bridge_adapter.contract import Broken, Event, Job, Merge, Result, combined
from bridge_adapter.errors import APIError, UpstreamError, unsupported_parameter
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.upstream import errors as upstream_errors
from bridge_adapter.upstream.attempts import Attempts
from bridge_adapter.upstream.client import TrussClient, UpstreamResponse
from bridge_adapter.upstream.decoders import DetectedDialect, ErrorInside, decoder_for, read_body
from bridge_adapter.upstream.encoders import encode
from bridge_adapter.upstream.reader import Reader
from bridge_adapter.upstream.text_dialect import TextPostProcessor
from bridge_adapter.upstream.watchdog import Watchdog

_CALLS_AT_ONCE = 16
_Item = tuple[int, list[Event] | Exception]


class _OtherDialect(Exception):
    """The upstream turned out to speak another dialect, for which the job needs other calls."""


class UpstreamCalls:
    """Makes the calls of one job. Use either `events` or `whole`, once."""

    def __init__(
        self, client: TrussClient, attempts: Attempts, job: Job, exchange: Exchange, watchdog: Watchdog
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._job = job
        self._exchange = exchange
        self._watchdog = watchdog
        self._bodies: list[dict[str, Any]] = []

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """Batches of events in the contract's order. Raises APIError, after the events that came before the fault."""
        begun = False
        while True:
            self._encode()
            calls = self._call(0) if len(self._bodies) == 1 else self._merged()
            try:
                async with aclosing(calls) as batches:
                    async for batch in batches:
                        begun = True
                        yield batch
                return
            except _OtherDialect:  # raised before the first batch, and only once: the dialect is known then
                continue
            except UpstreamError as error:
                if begun or not self._attempts.move_on(error):
                    raise

    async def whole(self) -> Result:
        while True:
            self._encode()
            try:
                return await (self._answer(0) if len(self._bodies) == 1 else self._answers())
            except _OtherDialect:
                continue
            except UpstreamError as error:
                if not self._attempts.move_on(error):
                    raise

    def _encode(self) -> None:
        upstream = self._attempts.route.upstream
        self._bodies = encode(self._job, upstream.request_dialect, upstream.model)

    @property
    def _choices_a_call(self) -> int:
        return self._job.choices // len(self._bodies)

    def _wanted(self, number: int) -> dict[str, Any]:
        """The job's body behind call `number`, with the fields that the dialect may have left out."""
        return self._job.bodies[number * len(self._job.bodies) // len(self._bodies)]

    def _detect(self, dialect: DetectedDialect | None) -> None:
        upstream = self._attempts.route.upstream
        if dialect is None or dialect == upstream.request_dialect:
            return
        upstream.detected = dialect
        # Raises for what the dialect cannot do: a refusal now is better than a parameter without effect.
        if dialect == "text" and len(encode(self._job, "text", upstream.model)) != len(self._bodies):
            raise _OtherDialect

    async def _open(self, number: int, *, stream: bool) -> UpstreamResponse:
        body = orjson.dumps(self._bodies[number])
        answer = await self._client.open(self._attempts, body, self._exchange, stream=stream)
        self._attempts.answered()
        return answer

    async def _call(self, number: int) -> AsyncGenerator[list[Event], None]:
        answer = await self._open(number, stream=True)
        reader: Reader | None = None
        try:
            decoder = decoder_for(self._attempts.route.upstream.dialect, answer.content_type)
            reader = Reader(decoder, self._choices_a_call, self._wanted(number))
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    self._watchdog.received()
                    events = reader.read(piece)
                    if events:
                        self._detect(decoder.dialect)
                        yield events
                    if reader.fault is not None:
                        raise reader.fault
                    if reader.ended:
                        return
                    self._watchdog.waiting()
            events = reader.end()
            if events:
                self._detect(decoder.dialect)
                yield events
            if reader.fault is not None:
                raise reader.fault
        except (Broken, ErrorInside) as fault:
            raise _api_error(fault) from fault
        finally:
            await answer.close(drain=reader is not None and reader.ended and not reader.cut_short)

    async def _merged(self) -> AsyncGenerator[list[Event], None]:
        queue: asyncio.Queue[_Item] = asyncio.Queue(_CALLS_AT_ONCE)
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        tasks = [asyncio.create_task(self._pump(number, queue, slots)) for number in range(len(self._bodies))]
        merge = Merge(len(self._bodies), self._choices_a_call)
        try:
            while merge.running:
                number, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                events = merge.merge(number, item)
                if events:
                    yield events
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, number: int, queue: asyncio.Queue[_Item], slots: asyncio.Semaphore) -> None:
        try:
            async with slots, aclosing(self._call(number)) as batches:
                async for batch in batches:
                    await queue.put((number, batch))
        except Exception as error:
            await queue.put((number, error))

    async def _answers(self) -> Result:
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer_in_slot(number, slots)) for number in range(len(self._bodies))]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return combined([task.result() for task in tasks], self._choices_a_call)

    async def _answer_in_slot(self, number: int, slots: asyncio.Semaphore) -> Result:
        async with slots:
            return await self._answer(number)

    async def _answer(self, number: int) -> Result:
        answer = await self._open(number, stream=False)
        try:
            self._watchdog.received()
            self._watchdog.waiting()
            dialect, result = read_body(self._attempts.route.upstream.dialect, answer.content_type, await answer.read())
            self._detect(dialect)
            if result.prompt_logprobs is None and "prompt_logprobs" in self._wanted(number):
                raise unsupported_parameter("prompt_logprobs")  # the server took no notice of it
            if sorted(choice.index for choice in result.choices) != list(range(self._choices_a_call)):
                raise Broken("other choices than requested")
        except (Broken, ErrorInside) as fault:
            raise _api_error(fault) from fault
        finally:
            await answer.close(drain=False)
        if dialect == "text":
            result.choices = [TextPostProcessor(self._wanted(number)).choice(choice) for choice in result.choices]
        return result


def _api_error(fault: Broken | ErrorInside) -> APIError:
    if isinstance(fault, Broken):
        return upstream_errors.broken(str(fault))
    return upstream_errors.error_inside(fault.body)
