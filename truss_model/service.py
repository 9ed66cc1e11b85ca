"""One predict call from body to reply: parse, encode, submit, follow, watch the caller. Knows no Truss and no torch."""

import asyncio
import dataclasses
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from truss_model.answer import Answer
from truss_model.completion import Completion
from truss_model.engine.generation import Generation
from truss_model.engine.params import SamplingParams
from truss_model.errors import ClientGone, EngineUnwell, QueueFull, RequestError, TrussModelError
from truss_model.events import error_body
from truss_model.grammar import GrammarCompiler
from truss_model.prompt import ChatTokenizer
from truss_model.request import PredictRequest, RequestLimits, parse_request
from truss_model.settings import ServingSettings
from truss_model.stream import Narrator

logger = logging.getLogger(__name__)

GONE_POLL_SECONDS = 0.5
SMALL_BODY = 4096  # bytes; what is smaller is encoded faster than a thread can be asked to
SLOW_FIELDS = ("response_format", "tools")  # a small schema, too, may take long to compile


class RunningEngine(Protocol):
    """What the service needs of `engine.Engine`."""

    max_model_len: int

    @property
    def healthy(self) -> bool: ...

    def check_room(self) -> None: ...

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """Either `lines`, to be streamed, or a `body` with its status."""

    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    lines: AsyncIterator[str] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready for the engine."""

    request: PredictRequest
    prompt: Sequence[int]
    params: SamplingParams


class Service:
    """Lives on one event loop from the first call on; `prepare`d jobs may come from worker threads."""

    def __init__(self, engine: RunningEngine, tokenizer: ChatTokenizer, settings: ServingSettings, model: str) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer)
        self._settings = settings
        self._limits = RequestLimits(tokenizer.vocab_size, settings.maximum_max_tokens)
        self._model = model
        self._live: dict[Completion, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def healthy(self) -> bool:
        return self._engine.healthy and not self._draining

    async def predict(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> Reply:
        """`size` of the body in bytes; `gone` is asked now and then whether the caller has left."""
        try:
            return await self._predict(body, size, gone)
        except TrussModelError as error:
            return refusal(error)

    async def _predict(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> Reply:
        if self._draining:
            raise EngineUnwell("The server is shutting down.")
        self._engine.check_room()  # before the work that a refused request would have been for nothing
        slow = size > SMALL_BODY or (isinstance(body, dict) and any(body.get(field) for field in SLOW_FIELDS))
        job = await asyncio.to_thread(self.prepare, body) if slow else self.prepare(body)
        request = job.request
        completion = Completion(self._submit(job), [self._answer(request) for _ in range(request.n)])
        self._watch(completion, gone)
        wants_logprobs = request.sampling.top_logprobs is not None
        narrator = Narrator(completion, self._tokenizer.vocabulary, self._model, logprobs=wants_logprobs)
        streamed = False
        try:
            await completion.admitted()
            if request.stream:
                streamed = True
                return Reply(lines=self._lines(completion, narrator))
            return Reply(body=await narrator.whole(request.n))
        finally:
            if not streamed:
                self._release(completion)

    def prepare(self, body: object) -> Job:
        """Check the body, encode its prompt, compile its grammar. May take long; touches nothing shared."""
        request = parse_request(body, self._limits)
        prompt = self._encode(request)
        room = max(1, self._engine.max_model_len - len(prompt))
        max_tokens = request.max_tokens
        if max_tokens is None:
            default = self._settings.default_max_tokens or self._settings.maximum_max_tokens or room
            max_tokens = max(1, min(room, default))
        constraint = self._grammars.compile(request.response_format, request.tools)
        params = dataclasses.replace(request.sampling, max_tokens=max_tokens, constraint=constraint)
        return Job(request, prompt, params)

    def _encode(self, request: PredictRequest) -> Sequence[int]:
        if request.messages is not None:
            return self._tokenizer.encode_chat(
                request.messages, request.tools, continue_final_message=request.continue_final_message
            )
        return self._tokenizer.encode_text(request.prompt) if isinstance(request.prompt, str) else request.prompt or ()

    def _submit(self, job: Job) -> Generation:
        try:
            return self._engine.submit(job.prompt, job.params, n=job.request.n)
        except RequestError as error:
            if error.param == "messages" and job.request.messages is None:
                error.param = "prompt"
            raise

    def _answer(self, request: PredictRequest) -> Answer:
        return Answer(self._tokenizer, stop=request.stop, tools=request.tools, continues_text=request.continues_text)

    async def _lines(self, completion: Completion, narrator: Narrator) -> AsyncIterator[str]:
        try:
            async with aclosing(narrator.lines(self._settings.keepalive_seconds)) as lines:
                async for line in lines:
                    yield line
        finally:
            self._release(completion)

    # Who leaves, and when.

    def _watch(self, completion: Completion, gone: Callable[[], Awaitable[bool]]) -> None:
        """A stream that nobody ever reads is watched too: the task ends with the caller, or with the answer."""

        async def watch() -> None:
            while not await gone():
                await asyncio.sleep(GONE_POLL_SECONDS)
            completion.abort(ClientGone("The client has gone."))

        self._live[completion] = asyncio.create_task(watch())

    def _release(self, completion: Completion) -> None:
        completion.abort(ClientGone("The client has gone."))
        if (watcher := self._live.pop(completion, None)) is not None:
            watcher.cancel()

    def drain(self) -> None:
        """Take no more requests, and end those that still run after `drain_seconds`. On the event loop."""
        if self._draining:
            return
        self._draining = True
        logger.info("Shutting down: %d requests may go on for %g s.", len(self._live), self._settings.drain_seconds)
        asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._end_all)

    def _end_all(self) -> None:
        for completion in self._live:
            completion.abort(EngineUnwell("The server shut down before the answer was complete."))


def refusal(error: TrussModelError) -> Reply:
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if isinstance(error, QueueFull) else {}
    return Reply(error.status, error_body(error), headers)
