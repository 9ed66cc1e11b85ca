"""ChatCompletions that a Truss returns -> the contract's events: missing parts added, the rest kept. Pure."""

from typing import Any

import msgspec
import orjson

from bridge_adapter.contract import (
    Broken,
    Call,
    Choice,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    FinishReason,
    PromptAlternative,
    PromptToken,
    Result,
    Start,
    TokenLogprob,
    ToolCall,
    Usage,
)

_NAMED = ("role", "content", "tool_calls", "function_call")
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
}


class _Logprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Scored(msgspec.Struct):
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


def _reason(given: Any) -> FinishReason:
    """An unknown reason is an error: it must not become another one."""
    known = _REASONS.get(given) if isinstance(given, str) else None
    if known is None:
        raise Broken("an unknown finish reason")
    return known


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    counts = {name: value.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    cached = (value.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return msgspec.convert({**counts, "cached_tokens": cached}, Usage)


def _logprobs(value: Any) -> list[TokenLogprob] | None:
    return msgspec.convert(value, _Logprobs).content if value else None


def _prompt(value: Any) -> list[PromptToken] | None:
    """vLLM's form: at each position the prompt's token and then the likeliest, by their ids; null at the first."""
    if value is None:
        return None
    return [
        PromptToken("", 0) if scored is None else _prompt_token(list(scored.items()))
        for scored in msgspec.convert(value, list[dict[int, _Scored] | None], str_keys=True)
    ]


def _prompt_token(scored: list[tuple[int, _Scored]]) -> PromptToken:
    if not scored:
        raise msgspec.ValidationError("a prompt token without log probability")
    (token_id, own), *others = scored
    tops = [PromptAlternative(each.decoded_token or "", number, each.logprob) for number, each in others]
    return PromptToken(own.decoded_token or "", token_id, own.logprob, own.rank, top_logprobs=tops)


def _extra(fields: dict[str, Any]) -> dict[str, Any] | None:
    kept = {name: value for name, value in fields.items() if name not in _NAMED and value is not None}
    return kept or None


def read_completion(value: dict[str, Any]) -> Result:
    """A chat.completion; raises msgspec.ValidationError if its parts have the wrong types."""
    choices = []
    for position, item in enumerate(value["choices"]):
        message = item["message"] if isinstance(item, dict) else None
        if not isinstance(message, dict):
            raise msgspec.ValidationError("a choice without a message")
        calls = _calls(message, position)
        choices.append(
            Choice(
                index=msgspec.convert(item.get("index", position), int),
                text=msgspec.convert(message.get("content"), str | None),
                tool_calls=calls,
                finish_reason=_reason(item.get("finish_reason") or ("tool_calls" if calls else "stop")),
                logprobs=_logprobs(item.get("logprobs")),
                extra=_extra(message),
            )
        )
    return Result(choices, _usage(value.get("usage")), _prompt(value.get("prompt_logprobs")))


def _calls(message: dict[str, Any], position: int) -> list[Call]:
    pieces = msgspec.convert(message.get("tool_calls") or [], list[_CallPiece])
    if not pieces and message.get("function_call"):
        pieces = [_CallPiece(function=msgspec.convert(message["function_call"], _Function))]
    return [
        Call(piece.id or f"fn{position:03d}{number:04d}", called.name or "", called.arguments or "")
        for number, piece in enumerate(pieces)
        if (called := piece.function) is not None
    ]


class ChunkReader:
    """Reads the data of one event after another. Ends at [DONE], or when every choice has had its finish_reason."""

    def __init__(self) -> None:
        self._started = False
        self._ended = False
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None

    def read(self, data: bytes) -> list[Event]:
        if self._ended:
            return []
        if data.startswith(b"[DONE]"):
            return self._finish()
        try:
            chunk = orjson.loads(data)
            return self._read_chunk(chunk)
        except (orjson.JSONDecodeError, msgspec.ValidationError, AttributeError, TypeError) as error:
            raise Broken("an invalid chunk") from error

    def end(self) -> list[Event]:
        """At the end of the body: a missing [DONE] is forgiven, a missing finish_reason is not."""
        if self._ended:
            return []
        if not self._finished or self._open - self._finished:
            raise Broken("the end of the stream before its finish reason")
        return self._finish()

    def _finish(self) -> list[Event]:
        if not self._finished or self._open - self._finished:
            raise Broken("the end of the stream before its finish reason")
        self._ended = True
        return [Done(self._usage)]

    def _read_chunk(self, chunk: dict[str, Any]) -> list[Event]:
        if chunk.get("error"):
            self._ended = True
            return [_failure(chunk["error"])]
        events: list[Event] = [] if self._started else [Start(None)]
        self._started = True
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            events += self._read_choice(choice)
        return events

    def _read_choice(self, choice: dict[str, Any]) -> list[Event]:
        index = msgspec.convert(choice.get("index", 0), int)
        delta = choice.get("delta") or {}
        self._open.add(index)
        events: list[Event] = []
        text = msgspec.convert(delta.get("content") or "", str)
        logprobs = _logprobs(choice.get("logprobs"))
        extra = _extra(delta)
        if text or logprobs or extra:
            events.append(Delta(index, text, logprobs, extra=extra))
        for position, piece in enumerate(msgspec.convert(delta.get("tool_calls") or [], list[_CallPiece])):
            events.append(_call(index, position if piece.index is None else piece.index, piece.id, piece.function))
        if delta.get("function_call"):
            called = msgspec.convert(delta["function_call"], _Function)
            events.append(_call(index, 0, f"fn{index:07d}" if called.name else None, called))
        reason = choice.get("finish_reason")
        if reason and index not in self._finished:
            self._finished.add(index)
            events.append(Finish(index, _reason(reason)))
        return events


def _call(index: int, number: int, call_id: str | None, function: _Function | None) -> ToolCall:
    function = function or _Function()
    return ToolCall(index, number, call_id or None, function.name or None, function.arguments or "")


def _failure(error: Any) -> Failure:
    if not isinstance(error, dict):
        return Failure(message=str(error)[:1000])
    message, code, param = error.get("message"), error.get("code"), error.get("param")
    status = error.get("status") or (code if isinstance(code, int) else 500)
    return Failure(
        status=status if isinstance(status, int) and 400 <= status < 600 else 500,
        type=str(error.get("type") or "server_error"),
        message=str(message or "The model failed while generating.")[:1000],
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) else None,
    )
