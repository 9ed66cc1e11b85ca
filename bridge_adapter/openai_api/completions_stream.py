"""Events -> text_completion chunks as server-sent events, and the parts that they share with a whole answer. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from bridge_adapter.contract import Delta, Done, Event, Finish, Job, Prompt, PromptToken, TokenLogprob
from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.answers import Identity, usage
from bridge_adapter.openai_api.sse import DONE, failed
from bridge_adapter.openai_api.stream_extras import StreamExtras

_json = msgspec.json.encode


class CompletionRequest(Protocol):
    """What a stream needs of its request."""

    @property
    def job(self) -> Job: ...

    @property
    def echo(self) -> bool: ...

    @property
    def logprobs(self) -> int | None: ...

    def echoed(self, body: int, tokens: list[PromptToken] | None) -> str: ...


def completion_head(identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": "text_completion",
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": None,
    }


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, list[Any]]:
    """`offset`: of the first token in the choice's text, in characters."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top_logprobs} for token in tokens],
        "text_offset": offsets,
    }


def prompt_part(tokens: Sequence[PromptToken], alternatives: int) -> dict[str, list[Any]]:
    """The same of an echoed prompt; nothing precedes its first token, whose log probability is null."""
    offsets: list[int] = []
    offset = 0
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token) if token.bytes else 0  # special tokens are no part of the text
    tops = [{top.token: top.logprob for top in token.top_logprobs[:alternatives]} for token in tokens]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [None if token.logprob is None else top for token, top in zip(tokens, tops, strict=True)],
        "text_offset": offsets,
    }


class CompletionChunks:
    """The stream of one answer. An echoed prompt comes before the first piece of each of its choices."""

    def __init__(self, completion: CompletionRequest, identity: Identity) -> None:
        self._completion = completion
        self._job = completion.job
        self._head = completion_head(identity)
        self._offsets = [0] * self._job.choices
        self._prompts: dict[int, list[PromptToken]] = {}
        self._opened: set[int] = set()
        self._extras = StreamExtras(self._job.options)

    def render(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._render_event(event) for event in events)

    def fail(self, error: APIError) -> bytes:
        return failed(error)

    def _render_event(self, event: Event) -> bytes:
        self._extras.count(event)
        match event:
            case Prompt(prompt_logprobs=tokens, body=body):
                self._prompts[body] = tokens
            case Delta(index=index, text=text):
                opening = self._open(index)
                probs = self._logprobs(event)
                self._offsets[index] += len(text)
                return opening + self._chunk(index, text, probs, None)
            case Finish(index=index, reason=reason):
                return self._open(index) + self._chunk(index, "", None, reason)
            case Done(usage=counts):
                last = self._head | {"choices": [], "usage": usage(counts)}
                return (b"data: %b\n\n" % _json(last) if self._job.options.include_usage else b"") + DONE
        return b""

    def _open(self, index: int) -> bytes:
        if not self._completion.echo or index in self._opened:
            return b""
        self._opened.add(index)
        body = index // self._job.n
        tokens = self._prompts.get(body)
        prompt = self._completion.echoed(body, tokens)
        self._offsets[index] = len(prompt)
        alternatives = self._completion.logprobs
        return self._chunk(
            index, prompt, None if alternatives is None else prompt_part(tokens or [], alternatives), None
        )

    def _logprobs(self, event: Delta) -> dict[str, Any] | None:
        return None if event.logprobs is None else completion_logprobs(event.logprobs, self._offsets[event.index])

    def _chunk(self, index: int, text: str, probs: Any, reason: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": probs, "finish_reason": reason}
        chunk = self._head | {"choices": [choice]}
        return b"data: %b\n\n" % _json(chunk | self._extras.fields(len(text)))
