"""One predict call from body to reply: parse, encode, submit, follow, watch the caller. Knows no Truss and no torch."""

import asyncio
import dataclasses
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import ClientGone, EngineUnwell, QueueFull, RequestError, TrussModelError, forget_frames
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.output.answer import RowDecoder
from truss_model.output.completion import Completion
from truss_model.output.events import AnswerEvent, error_body, lines
from truss_model.output.stream import AnswerWriter
from truss_model.request.predict_request import PredictRequest, RequestLimits, parse_request
from truss_model.settings import ServingSettings
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

logger = logging.getLogger(__name__)

GONE_POLL_SECONDS = 0.5
SMALL_BODY = 4096  # bytes; smaller bodies are encoded faster than a thread could take over
PREPARERS = 4  # threads for what is slower; more only wait for the interpreter, and each keeps a heap of over a MB
SLOW_FIELDS = ("response_format", "tools")  # even a small schema may take long to compile


class RunningEngine(Protocol):
    """The part of `engine.Engine` that the service uses."""

    max_model_len: int

    @property
    def healthy(self) -> bool: ...

    def check_room(self) -> None: ...

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, n: int = 1) -> Generation: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """Either `lines`, to be streamed, or a `body` with its status."""

    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    lines: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A checked request with everything that the engine needs."""

    request: PredictRequest
    prompt: Sequence[int]
    params: SamplingParams


class OpenAnswer:
    """An admitted request. Follow it once, by `events` or by `whole`; it ends early if the client disconnects.

    stream: whether the body requested a stream.
    """

    def __init__(
        self, request: PredictRequest, writer: AnswerWriter, keepalive_seconds: float, release: Callable[[], None]
    ) -> None:
        self.stream = request.stream
        self._rows = request.n
        self._writer = writer
        self._keepalive_seconds = keepalive_seconds
        self._release = release

    def events(self) -> AsyncGenerator[list[AnswerEvent], None]:
        """Batches of events, the last of which ends in DoneEvent or ErrorEvent; an empty batch is a keep-alive."""
        return self._writer.events(self._keepalive_seconds, self._release)

    async def whole(self) -> dict[str, Any]:
        """The object of a plain answer. Raises TrussModelError if the generation fails or the client disconnects."""
        try:
            return await self._writer.whole(self._rows)
        finally:
            self._release()


async def _lines(batches: AsyncGenerator[list[AnswerEvent], None]) -> AsyncIterator[bytes]:
    async with aclosing(batches):
        async for batch in batches:
            yield lines(batch).encode()


class Service:
    """Lives on one event loop from the first call on; `prepare` may run in worker threads."""

    def __init__(self, engine: RunningEngine, tokenizer: ChatTokenizer, settings: ServingSettings, model: str) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer)
        self.settings = settings
        self._limits = RequestLimits(tokenizer.vocab_size, settings.maximum_max_tokens, tokenizer.continues_last_answer)
        self._model = model
        self._preparers = ThreadPoolExecutor(PREPARERS, "prepare")
        self._live: dict[Completion, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def healthy(self) -> bool:
        return self._engine.healthy and not self._draining

    async def predict(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> Reply:
        """`size` of the body in bytes; `gone` is polled for whether the client has disconnected."""
        try:
            answer = await self.open(body, size, gone)
            return Reply(lines=_lines(answer.events())) if answer.stream else Reply(body=await answer.whole())
        except TrussModelError as error:
            forget_frames(error)
            return refusal(error)

    async def open(self, body: object, size: int, gone: Callable[[], Awaitable[bool]]) -> "OpenAnswer":
        """Wait until the request has left the queue. Raises TrussModelError if the request is refused."""
        if self._draining:
            raise EngineUnwell("The server is shutting down.")
        self._engine.check_room()  # before any work on a request that would be refused
        slow = size > SMALL_BODY or (isinstance(body, dict) and any(body.get(field) for field in SLOW_FIELDS))
        if slow:
            prepared = await asyncio.get_running_loop().run_in_executor(self._preparers, self.prepare, body)
        else:
            prepared = self.prepare(body)
        request = prepared.request
        completion = Completion(self._submit(prepared), [self._decoder(request) for _ in range(request.n)])
        self._watch(completion, gone)
        try:
            await completion.admitted()
        except BaseException:
            self._release(completion)
            raise
        writer = AnswerWriter(
            completion,
            self._tokenizer.vocabulary,
            self._model,
            logprobs=request.sampling.top_logprobs is not None,
            scored_prompt=None if request.sampling.prompt_logprobs is None else prepared.prompt,
        )
        return OpenAnswer(request, writer, self.settings.keepalive_seconds, lambda: self._release(completion))

    def prepare(self, body: object) -> PreparedRequest:
        """Check the body, encode its prompt, compile its grammar. May take long; safe to run in any thread."""
        request = parse_request(body, self._limits)
        prompt = self._encode(request)
        room = max(1, self._engine.max_model_len - len(prompt))
        max_tokens = request.max_tokens
        if max_tokens is None:
            default = self.settings.default_max_tokens or self.settings.maximum_max_tokens or room
            max_tokens = max(1, min(room, default))
        elif (request.max_tokens_over_context or self.settings.max_tokens_over_context) == "clamp":
            max_tokens = min(room, max_tokens)
        constraint = self._grammars.compile(request.response_format, request.tools)
        params = dataclasses.replace(request.sampling, max_tokens=max_tokens, constraint=constraint)
        return PreparedRequest(request, prompt, params)

    def _encode(self, request: PredictRequest) -> Sequence[int]:
        if request.messages is not None:
            return self._tokenizer.encode_chat(request.messages, request.tools)
        return self._tokenizer.encode_text(request.prompt) if isinstance(request.prompt, str) else request.prompt or ()

    def _submit(self, prepared: PreparedRequest) -> Generation:
        try:
            return self._engine.submit(prepared.prompt, prepared.params, n=prepared.request.n)
        except RequestError as error:
            if error.param == "messages" and prepared.request.messages is None:
                error.param = "prompt"
            raise

    def _decoder(self, request: PredictRequest) -> RowDecoder:
        return RowDecoder(
            self._tokenizer, stop=request.stop, tools=request.tools, continues_text=request.continues_text
        )

    # The end of requests: the client disconnects, or the server drains.

    def _watch(self, completion: Completion, gone: Callable[[], Awaitable[bool]]) -> None:
        """Abort when the client disconnects, even if its stream is never read. The task ends with the answer."""

        async def watch() -> None:
            while not await gone():
                await asyncio.sleep(GONE_POLL_SECONDS)
            completion.abort(ClientGone("The client disconnected."))
            self._live.pop(completion, None)  # nobody else does if its stream is never read

        self._live[completion] = asyncio.create_task(watch())

    def _release(self, completion: Completion) -> None:
        completion.abort(ClientGone("The client disconnected."))
        if (watcher := self._live.pop(completion, None)) is not None:
            watcher.cancel()

    def stop(self) -> None:
        """End the engine; what runs is told."""
        self._engine.stop()

    def drain(self) -> None:
        """Accept no more requests, and end those that still run after `drain_seconds`. Called on the event loop."""
        if self._draining:
            return
        self._draining = True
        logger.info(
            "Shutting down: %d running requests have %g s to finish.", len(self._live), self.settings.drain_seconds
        )
        asyncio.get_running_loop().call_later(self.settings.drain_seconds, self._end_all)

    def _end_all(self) -> None:
        for completion in self._live:
            completion.abort(EngineUnwell("The server shut down before the answer was complete."))


def refusal(error: TrussModelError) -> Reply:
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if isinstance(error, QueueFull) else {}
    return Reply(error.status, error_body(error), headers)
