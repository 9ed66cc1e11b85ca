"""OpenAI's operations on the Truss itself: the adapter's translation around in-process predict. Knows no HTTP server.

The only module that imports the adapter's pure part (contract, errors, openai_api); the image holds no more of it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from bridge_adapter.contract import (
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Job,
    Merge,
    Prompt,
    PromptToken,
    Result,
    Start,
    TokenLogprob,
    ToolCall,
    Usage,
    combined,
)
from bridge_adapter.errors import APIError, InvalidRequest, forget_frames
from bridge_adapter.openai_api.answers import new_identity, request_id
from bridge_adapter.openai_api.operations import OPERATIONS, json_object, model_of, name_as_requested
from bridge_adapter.openai_api.policy import DROPPED_FIELDS, Policy, header_of
from bridge_adapter.openai_api.sse import COMMENT, HEADERS, Renderer
from truss_model.errors import EngineUnwell, QueueFull, TrussModelError
from truss_model.output.events import (
    AnswerEvent,
    DoneEvent,
    ErrorEvent,
    FinishEvent,
    PromptEvent,
    StartEvent,
    TextEvent,
    ToolCallEvent,
)
from truss_model.settings import ServingSettings

logger = logging.getLogger(__name__)

CALLS_AT_ONCE = 16  # of one request with several prompts, as in the adapter
RETRYABLE = (429, 500, 503)


class OpenAnswer(Protocol):
    """What is used of `service.OpenAnswer`."""

    def events(self) -> AsyncGenerator[list[AnswerEvent], None]: ...

    async def whole(self) -> dict[str, Any]: ...


class PredictService(Protocol):
    """What is used of `service.Service`."""

    async def open(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> OpenAnswer: ...


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One HTTP request. `size`: of its body in bytes. `gone` is asked now and then whether its client has left."""

    size: int
    gone: Callable[[], Awaitable[bool]]
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Either `events`, to be streamed with a 200, or a `body` of JSON with its status."""

    headers: Mapping[str, str]
    status: int = 200
    body: bytes = b""
    events: AsyncIterator[bytes] | None = None


class OpenAIRoutes:
    """Serves requests for any name in `model`: a Truss has one model. Answers repeat the name."""

    def __init__(self, service: PredictService, settings: ServingSettings) -> None:
        self._service = service
        self._policy = Policy(
            drop_unknown=settings.unknown_fields == "drop", max_stop_strings=settings.max_stop_strings
        )

    async def answer(self, path: str, body: object, context: RequestContext) -> Answer:
        """`path`: a key of OPERATIONS. Errors before the first piece of an answer have their own status."""
        headers = {"x-request-id": request_id(context.request_id)}
        try:
            return await self._answer(path, body, context, headers)
        except APIError as error:
            forget_frames(error)
            return _refusal(error, headers)
        except Exception:
            logger.exception("A request of OpenAI's routes failed.")
            return _refusal(APIError("The server had an error while processing your request."), headers)

    async def _answer(self, path: str, body: object, context: RequestContext, headers: dict[str, str]) -> Answer:
        operation = OPERATIONS[path]
        fields = json_object(body)
        _check_writable(fields)
        identity = new_identity(operation.id_prefix, model_of(fields))
        plan = operation.plan(fields, self._policy)
        if plan.job.dropped:
            headers[DROPPED_FIELDS] = header_of(plan.job.dropped)
        calls = _Calls(self._service, plan.job, context)
        try:
            if not plan.job.stream:
                return Answer({**headers, **_JSON}, body=plan.answer(identity, await calls.whole()))
            renderer = plan.renderer(identity)
            pieces = _rendered(renderer, calls.events())
            first = await anext(pieces)
        except APIError as error:
            name_as_requested(error, plan.job)
            raise
        return Answer({**headers, **HEADERS}, events=_stream(renderer, first, pieces))


_JSON = {"content-type": "application/json"}


def _refusal(error: APIError, headers: Mapping[str, str]) -> Answer:
    return Answer({**headers, **_JSON, **error.headers()}, error.status, msgspec.json.encode(error.body()))


def _check_writable(body: Mapping[str, Any]) -> None:
    """Answers repeat parts of a request, and Python's json, which Truss reads it with, allows more than JSON does."""
    try:
        msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise InvalidRequest("The request body holds text that is not valid Unicode: a lone surrogate.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None


async def _rendered(renderer: Renderer, batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    """Server-sent events, and comments while nothing comes. Raises APIError after what came before a fault."""
    async with aclosing(batches):
        async for events in batches:
            failure = events[-1] if events and isinstance(events[-1], Failure) else None
            data = renderer.render(events[:-1] if failure else events) if events else COMMENT
            if data:
                yield data
            if failure:
                raise _in_band(failure)


async def _stream(renderer: Renderer, first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        yield first
        try:
            async for piece in pieces:
                yield piece
        except APIError as error:
            forget_frames(error)
            yield renderer.fail(error)


class _Calls:
    """The predict calls of one job. Use `events` or `whole`, once; both raise APIError."""

    def __init__(self, service: PredictService, job: Job, context: RequestContext) -> None:
        self._service = service
        self._job = job
        self._context = context
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)

    def events(self) -> AsyncGenerator[list[Event], None]:
        """Batches in the contract's order; an empty one is a keep-alive."""
        bodies = self._job.bodies
        return self._events(bodies[0]) if len(bodies) == 1 else self._merged()

    async def whole(self) -> Result:
        bodies = self._job.bodies
        if len(bodies) == 1:
            return await self._result(bodies[0])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._result(body)) for body in bodies]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return combined([task.result() for task in tasks], self._job.n)

    async def _result(self, body: dict[str, Any]) -> Result:
        async with self._room:
            try:
                answer = await self._service.open(body, self._context.size, self._context.gone)
                return msgspec.convert(await answer.whole(), Result)
            except TrussModelError as error:
                raise _api_error(error) from error

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[list[Event], None]:
        try:
            answer = await self._service.open(body, self._context.size, self._context.gone)
        except TrussModelError as error:
            raise _api_error(error) from error
        async with aclosing(answer.events()) as batches:
            async for batch in batches:
                yield [_event(event) for event in batch]

    async def _merged(self) -> AsyncGenerator[list[Event], None]:
        queue: asyncio.Queue[tuple[int, list[Event] | Exception]] = asyncio.Queue(CALLS_AT_ONCE)
        merge = Merge(len(self._job.bodies), self._job.n)
        tasks = [asyncio.create_task(self._pump(call, queue)) for call in range(len(self._job.bodies))]
        try:
            while merge.running:
                call, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                events = merge.merge(call, item)
                if events or not item:
                    yield events
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, call: int, queue: asyncio.Queue[tuple[int, list[Event] | Exception]]) -> None:
        try:
            async with self._room, aclosing(self._events(self._job.bodies[call])) as batches:
                async for batch in batches:
                    await queue.put((call, batch))
        except Exception as error:
            await queue.put((call, error))


def _event(event: AnswerEvent) -> Event:
    match event:
        case TextEvent(index, text, tokens, logprobs):
            entries = None if logprobs is None else msgspec.convert(logprobs, list[TokenLogprob])
            return Delta(index, text, entries, tokens)
        case ToolCallEvent(index, call, call_id, name, arguments, tokens):
            return ToolCall(index, call, call_id, name, arguments, tokens)
        case FinishEvent(index, reason):
            return Finish(index, reason)
        case StartEvent(prompt_tokens, cached_tokens, _):
            return Start(prompt_tokens, cached_tokens)
        case PromptEvent(entries):
            return Prompt(msgspec.convert(entries, list[PromptToken]))
        case DoneEvent(usage):
            return Done(msgspec.convert(usage.as_dict(), Usage))
        case ErrorEvent(error):
            return Failure(error.status, error.type, error.message, error.param, error.code)


def _in_band(failure: Failure) -> APIError:
    """As the adapter says it when the event is the first thing that it hears."""
    return APIError(
        failure.message,
        status=failure.status,
        type=failure.type,
        param=failure.param,
        code=failure.code,
        retry_after=1.0 if failure.status in (429, 503) else None,
    )


def _api_error(error: TrussModelError) -> APIError:
    """What the adapter makes of the same refusal when it reads it as a response of the Truss."""
    retry_after = (
        error.retry_after if isinstance(error, QueueFull) else 1.0 if isinstance(error, EngineUnwell) else None
    )
    return APIError(
        error.message,
        status=error.status,
        type=error.type,
        param=error.param,
        code=error.code,
        retry_after=retry_after,
        should_retry=error.status in RETRYABLE,
    )
