"""What a Truss sends -> the contract's events, for each dialect, and the recognition of the dialect. Pure.

A decoder is fed bytes and yields events; `end` is called at a clean end of the body and raises `Broken` if the answer
is not complete: a Truss swallows exceptions in generators, so a clean end alone proves nothing. What was yielded before
a `Broken` stands, so that the outcome does not depend on how the network cut the bytes.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec

from bridge_adapter.lines import EventSplitter, LineSplitter
from bridge_adapter.openai_upstream import ChunkReader
from bridge_adapter.settings import Dialect
from bridge_adapter.whole import ErrorInside, read_whole
from bridge_adapter.wire import Broken, Delta, Done, Event, Failure, Finish, Gathered, Result, Start, events_of

Heard = Literal["predict", "text", "openai"]
LONGEST_LINE = 8 * 1024 * 1024
_decode_event = msgspec.json.Decoder(Event).decode


class Decoder(Protocol):
    @property
    def dialect(self) -> Heard | None: ...

    def feed(self, data: bytes) -> Iterator[Event]: ...

    def end(self) -> Iterator[Event]: ...


class PredictDecoder:
    """NDJSON of the predict contract. Empty lines are keep-alives."""

    dialect: Heard | None = "predict"

    def __init__(self) -> None:
        self._lines = LineSplitter(LONGEST_LINE)
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Event]:
        for line in self._lines.feed(data):
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
            raise Broken("a line that is no event") from error
        self._ended = type(event) is Done or type(event) is Failure
        return event


class TextDecoder:
    """Raw text pieces. A clean end is the only sign of the end that this dialect has; usage is not known, so zero."""

    dialect: Heard | None = "text"

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False

    def feed(self, data: bytes) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Start()
        text = self._utf8.decode(data)
        if text:
            yield Delta(0, text)

    def end(self) -> Iterator[Event]:
        yield from self.feed(b"")
        rest = self._utf8.decode(b"", True)
        if rest:
            yield Delta(0, rest)
        yield Finish(0, "stop")
        yield Done()


class OpenAIDecoder:
    """Chat completion chunks as server-sent events."""

    dialect: Heard | None = "openai"

    def __init__(self) -> None:
        self._events = EventSplitter(LONGEST_LINE)
        self._reader = ChunkReader()

    def feed(self, data: bytes) -> Iterator[Event]:
        for piece in self._events.feed(data):
            yield from self._reader.read(piece)

    def end(self) -> Iterator[Event]:
        for piece in self._events.flush():
            yield from self._reader.read(piece)
        yield from self._reader.end()


class WholeDecoder:
    """One JSON value although a stream was asked for: read when it has ended, told as the stream it stands for."""

    dialect: Heard | None = None

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterator[Event]:
        self._body += data
        if len(self._body) > LONGEST_LINE:
            raise Broken("an answer that has no end")
        return iter(())

    def end(self) -> Iterator[Event]:
        self.dialect, result = read_whole(bytes(self._body))
        yield from events_of(result)


_PREDICT = re.compile(rb'\s*\{\s*"event"\s*:')
_OPENAI = re.compile(rb"\s*data: ?(?:\{|\[DONE\])")
_BEGINNINGS = (b'{"event":', b"data:{", b"data:[DONE]")
_LONGEST_UNDECIDED = 4096


class SniffingDecoder:
    """Tells the dialect by what comes, then is that dialect's decoder. Whitespace ahead is kept: it may be text."""

    def __init__(self) -> None:
        self._chosen: Decoder | None = None
        self._held = b""

    @property
    def dialect(self) -> Heard | None:
        return self._chosen.dialect if self._chosen else None

    def feed(self, data: bytes) -> Iterator[Event]:
        if self._chosen is not None:
            return self._chosen.feed(data)
        self._held += data
        self._chosen = _choose(self._held)
        if self._chosen is None:
            return iter(())
        held, self._held = self._held, b""
        return self._chosen.feed(held)

    def end(self) -> Iterator[Event]:
        if self._chosen is None:
            if not self._held.strip():
                raise Broken("an empty answer")
            self._chosen = TextDecoder()
            yield from self._chosen.feed(self._held)
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
    """The decoder of a streamed answer; raises Broken for a web page."""
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


def read_body(dialect: Dialect, content_type: str, body: bytes) -> tuple[Heard, Result]:
    """A whole answer. A Truss that streams although it was not asked to is read to its end."""
    if content_type.startswith("application/json"):
        return read_whole(body)
    decoder = decoder_for(dialect, content_type)
    gathered = Gathered()
    gathered.feed(decoder.feed(body))
    gathered.feed(decoder.end())
    if gathered.failure is not None:
        raise ErrorInside({"error": msgspec.structs.asdict(gathered.failure)})
    return decoder.dialect or "text", gathered.result()
