"""What a Truss sends -> the contract's events, for each dialect, and the recognition of the dialect. Pure.

`decode` takes bytes as they arrive and yields events. `end` is called at a clean end of the body and raises `Broken` if
the answer is incomplete: a Truss swallows exceptions in generators, so a clean end alone proves nothing. The events
before a `Broken` count, so that the outcome does not depend on how the network cut the bytes.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import msgspec
import orjson

from bridge_adapter.contract import (
    Broken,
    Choice,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Result,
    ResultBuilder,
    Start,
    events_of,
)
from bridge_adapter.settings import Dialect
from bridge_adapter.upstream.framing import EventSplitter, LineSplitter
from bridge_adapter.upstream.openai_dialect import ChunkReader, read_completion

DetectedDialect = Literal["predict", "text", "openai"]
LONGEST_LINE = 8 * 1024 * 1024
_decode_event = msgspec.json.Decoder(Event).decode


class Decoder(Protocol):
    @property
    def dialect(self) -> DetectedDialect | None: ...

    def decode(self, data: bytes) -> Iterator[Event]: ...

    def end(self) -> Iterator[Event]: ...


class PredictDecoder:
    """NDJSON of the predict contract. Empty lines are keep-alives."""

    dialect: DetectedDialect | None = "predict"

    def __init__(self) -> None:
        self._lines = LineSplitter(LONGEST_LINE)
        self._ended = False

    def decode(self, data: bytes) -> Iterator[Event]:
        for line in self._lines.split(data):
            if line and not self._ended:
                yield self._read(line)

    def end(self) -> Iterator[Event]:
        rest = self._lines.flush()
        if rest.strip() and not self._ended:
            yield self._read(rest)
        if not self._ended:
            raise Broken("the end of the stream before its last event")

    def _read(self, line: bytes) -> Event:
        try:
            event: Event = _decode_event(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken("a line that is not an event") from error
        self._ended = type(event) is Done or type(event) is Failure
        return event


class TextDecoder:
    """Raw text. The dialect marks no end but that of the body, gives no reason for it and counts no tokens."""

    dialect: DetectedDialect | None = "text"

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False

    def decode(self, data: bytes) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Start(None)
        text = self._utf8.decode(data)
        if text:
            yield Delta(0, text)

    def end(self) -> Iterator[Event]:
        yield from self.decode(b"")
        rest = self._utf8.decode(b"", True)
        if rest:
            yield Delta(0, rest)
        yield Finish(0, "stop")
        yield Done(None)


class OpenAIDecoder:
    """Chat completion chunks as server-sent events."""

    dialect: DetectedDialect | None = "openai"

    def __init__(self) -> None:
        self._events = EventSplitter(LONGEST_LINE)
        self._reader = ChunkReader()

    def decode(self, data: bytes) -> Iterator[Event]:
        for piece in self._events.split(data):
            yield from self._reader.read(piece)

    def end(self) -> Iterator[Event]:
        for piece in self._events.flush():
            yield from self._reader.read(piece)
        yield from self._reader.end()


class WholeDecoder:
    """One JSON value although a stream was requested: parsed at its end, then converted to the events of a stream."""

    dialect: DetectedDialect | None = None

    def __init__(self) -> None:
        self._body = bytearray()

    def decode(self, data: bytes) -> Iterator[Event]:
        self._body += data
        if len(self._body) > LONGEST_LINE:
            raise Broken("an answer above the size limit")
        return iter(())

    def end(self) -> Iterator[Event]:
        self.dialect, result = read_whole(bytes(self._body))
        yield from events_of(result)


_PREDICT = re.compile(rb'\s*\{\s*"event"\s*:')
_BOM = b"\xef\xbb\xbf"
_OPENAI = re.compile(rb"(?:\xef\xbb\xbf)?\s*data: ?(?:\{|\[DONE\])")
_BEGINNINGS = (b'{"event":', b"data:{", b"data:[DONE]", _BOM + b"data:{", _BOM + b"data:[DONE]")
_LONGEST_UNDECIDED = 4096


class SniffingDecoder:
    """Detects the dialect by the first bytes, then decodes it. Whitespace at the start is kept: it may be text."""

    def __init__(self) -> None:
        self._chosen: Decoder | None = None
        self._held = b""

    @property
    def dialect(self) -> DetectedDialect | None:
        return self._chosen.dialect if self._chosen else None

    def decode(self, data: bytes) -> Iterator[Event]:
        if self._chosen is not None:
            return self._chosen.decode(data)
        self._held += data
        self._chosen = _choose(self._held)
        if self._chosen is None:
            return iter(())
        held, self._held = self._held, b""
        return self._chosen.decode(held)

    def end(self) -> Iterator[Event]:
        if self._chosen is None:
            if not self._held.strip():
                raise Broken("an empty answer")
            self._chosen = TextDecoder()
            yield from self._chosen.decode(self._held)
        yield from self._chosen.end()


def _choose(beginning: bytes) -> Decoder | None:
    if _PREDICT.match(beginning):
        return PredictDecoder()
    if _OPENAI.match(beginning):
        return OpenAIDecoder()
    squeezed = b"".join(beginning[:_LONGEST_UNDECIDED].split())
    if len(beginning) < _LONGEST_UNDECIDED and any(known.startswith(squeezed) for known in _BEGINNINGS):
        return None
    return TextDecoder()


def decoder_for(dialect: Dialect, content_type: str) -> Decoder:
    """The decoder of a streamed answer. Raises Broken for a web page."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/html":
        raise Broken("a web page")
    if kind == "application/json":
        return WholeDecoder()
    if dialect == "auto":
        return OpenAIDecoder() if kind == "text/event-stream" else SniffingDecoder()
    if dialect == "predict":
        return PredictDecoder()
    return TextDecoder() if dialect == "text" else OpenAIDecoder()


def read_body(dialect: Dialect, content_type: str, body: bytes) -> tuple[DetectedDialect, Result]:
    """A whole answer; also one that a Truss streamed although no stream was requested."""
    if content_type.startswith("application/json"):
        return read_whole(body)
    decoder = decoder_for(dialect, content_type)
    builder = ResultBuilder()
    builder.add(decoder.decode(body))
    builder.add(decoder.end())
    if builder.failure is not None:
        raise ErrorInside({"error": msgspec.structs.asdict(builder.failure)})
    return decoder.dialect or "text", builder.result()


class ErrorInside(Exception):
    """The answer has status 200 and holds an error."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__()
        self.body = body


def read_whole(body: bytes) -> tuple[Literal["predict", "text", "openai"], Result]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Broken("invalid JSON") from error
    if isinstance(value, str):
        return "text", Result([Choice(0, value)], usage=None)
    if not isinstance(value, dict):
        raise Broken("JSON that is not a completion")
    choices = value.get("choices")
    if not isinstance(choices, list):
        if value.get("error") or value.get("status") == "error":
            raise ErrorInside(value)
        raise Broken("JSON without choices")
    try:
        if any(isinstance(choice, dict) and "message" in choice for choice in choices):
            return "openai", read_completion(value)
        return "predict", msgspec.convert(value, Result)
    except msgspec.ValidationError as error:
        raise Broken("choices of an unknown form") from error
