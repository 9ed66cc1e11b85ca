"""However the network cuts a stream, the client sees the same: every byte position, and pieces drawn at random."""

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter.contract import Broken, Job, StreamOptions
from bridge_adapter.openai_api.answers import Identity
from bridge_adapter.openai_api.chat_stream import ChatChunks
from bridge_adapter.settings import Dialect
from bridge_adapter.upstream import errors as upstream_errors
from bridge_adapter.upstream.decoders import decoder_for
from bridge_adapter.upstream.framing import EventSplitter
from bridge_adapter.upstream.reader import Reader
from bridge_adapter.upstream.text_dialect import TextStopScanner
from tests.adapter.stub import line, ndjson, usage

TEXTS = ("Grüße, ", "世界 ", "👩‍👩‍👧 ", '"quoted" \\ \n\r\n', "\u2028\u0085 end")
TOOL = line(event="tool_call", index=0, call=0, id="abcdefghi", name="f", arguments='{"a":"é')
CALLS = (
    line(event="start", prompt_tokens=1)
    + TOOL
    + line(event="tool_call", index=0, call=0, arguments='👋"}')
    + line(event="finish", index=0, reason="tool_calls")
    + line(event="done", usage=usage())
)


def chunk(delta: object, reason: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps({"id": "x", "choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"


SSE = b"".join(
    (
        b": hello\n\n",
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": text}) for text in TEXTS),
        chunk({}, "stop"),
        b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}\n\n',
        b"data: [DONE]\n\n",
    )
)
STREAMS: dict[str, tuple[Dialect, bytes]] = {
    "predict": ("predict", ndjson(*TEXTS)),
    "predict told by its look": ("auto", ndjson(*TEXTS)),
    "n": ("auto", ndjson(*TEXTS[:2], n=3)),
    "keep-alives and CRLF": ("auto", b"\n\n\r\n" + ndjson("a", "b").replace(b"\n", b"\r\n\n")),
    "tool calls": ("auto", CALLS),
    "no end": ("auto", ndjson(*TEXTS).rpartition(b'{"event": "done"')[0]),
    "in-band error": ("auto", line(event="start") + line(event="delta", index=0, text="x") + line(event="error")),
    "error at once": ("auto", line(event="start") + line(event="error", status=503, message="no")),
    "broken": ("auto", ndjson("a").replace(b'"finish"', b'"fin')),
    "text": ("text", "".join(TEXTS).encode()),
    "text told by its look": ("auto", b"  \n" + "".join(TEXTS).encode()),
    "text that looks like JSON": ("auto", '{"eve": "ö", "event": 1}'.encode()),
    "text that looks like data": ("auto", b"data: none"),
    "text that ends inside a character": ("text", "abc👋".encode()[:-2]),
    "openai": ("openai", SSE),
    "openai told by its look": ("auto", SSE.removeprefix(b": hello\n\n")),
    "openai in CRLF": ("openai", SSE.replace(b"\n", b"\r\n")),
    "openai in CR": ("openai", SSE.replace(b"\n", b"\r")),
    "openai in CR told by its look": ("auto", SSE.removeprefix(b": hello\n\n").replace(b"\n", b"\r")),
    "openai in mixed line ends": ("openai", b"\r\n".join(SSE.replace(b"\n\n", b"\n\r").split(b"\n"))),
    "openai after a byte order mark": ("openai", b"\xef\xbb\xbf" + SSE),
    "openai after a byte order mark told by its look": ("auto", b"\xef\xbb\xbf" + SSE.removeprefix(b": hello\n\n")),
    "openai without [DONE]": ("openai", SSE.removesuffix(b"data: [DONE]\n\n")),
    "openai without a finish reason": ("openai", SSE.replace(b'"stop"', b"null")),
}


def seen(dialect: Dialect, pieces: Sequence[bytes], n: int) -> bytes:
    """What a client gets of these pieces: the bytes of the answer, or the error's, as the endpoint puts them."""
    job = Job([{"stop": ["never there"]}], n=n, stream=True, options=StreamOptions(include_usage=True))
    reader = Reader(decoder_for(dialect, ""), n, job.bodies[0])
    chunks = ChatChunks(job, Identity("id", "m", 1))
    shown = b""
    for piece in pieces:
        shown += chunks.render(reader.read(piece))
        if reader.fault or reader.ended:
            break
    else:
        shown += chunks.render(reader.end())
    if reader.fault:
        assert isinstance(reader.fault, Broken)
        shown += chunks.fail(upstream_errors.broken(str(reader.fault)))
    return shown


def joined(shown: bytes) -> list[object]:
    """The chunks, text that stands in a row put together: how finely it comes is the network's affair."""
    result: list[object] = []
    text = ""
    for item in shown.decode().split("\n\n"):
        data = json.loads(item.removeprefix("data: ")) if item not in ("", "data: [DONE]") else item
        choices = data.get("choices") if isinstance(data, dict) else None
        content = choices[0]["delta"].get("content") if choices and len(choices) == 1 else None
        if content:
            text += content
            continue
        if text:
            result.append(text)
            text = ""
        result.append(data)
    return result


@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_in_two(name: str) -> None:
    dialect, data = STREAMS[name]
    n = 3 if name == "n" else 1
    expected = joined(seen(dialect, [data], n))
    for at in range(len(data) + 1):
        pieces = [piece for piece in (data[:at], data[at:]) if piece]
        assert joined(seen(dialect, pieces, n)) == expected
    assert joined(seen(dialect, [data[i : i + 1] for i in range(len(data))], n)) == expected


@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_any_pieces(name: str, data: st.DataObject) -> None:
    dialect, stream = STREAMS[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    n = 3 if name == "n" else 1
    assert joined(seen(dialect, pieces, n)) == joined(seen(dialect, [stream], n))


def test_the_texts_come_through_whole() -> None:
    for name in STREAMS:
        if not name.startswith(("predict", "openai")) or "without" in name:
            continue
        dialect, data = STREAMS[name]
        assert "".join(TEXTS) in joined(seen(dialect, [data], 1))


@pytest.mark.parametrize("name", ["no end", "broken", "openai without a finish reason"])
def test_what_does_not_end_well_is_an_error(name: str) -> None:
    dialect, data = STREAMS[name]
    *_, error, done, _rest = seen(dialect, [data], 1).split(b"\n\n")
    assert b'"error"' in error
    assert done == b"data: [DONE]"


_sse = st.lists(st.sampled_from([b"\xef\xbb\xbf", b"data", b":", b" ", b"x", b"\r", b"\n", b"\r\n"]), max_size=24)


def events_by_the_standard(stream: bytes) -> list[bytes]:
    """The WHATWG algorithm over a whole stream. An unfinished last event is dispatched: peers forget its empty line."""
    events, data = [], list[bytes]()
    for read in [*re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        name, _, value = read.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        if not read:
            events += [b"\n".join(data)] if data else []
            data = []
    return events


@given(_sse.map(b"".join), st.data())
def test_events_are_those_of_the_standard_wherever_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    splitter = EventSplitter(10_000)
    events: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += splitter.split(stream[start:end])
    assert events + splitter.flush() == events_by_the_standard(stream)


_few = st.text("abc", max_size=30)
_stops = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4)


@given(_few, _stops, st.data())
def test_stop_strings_are_found_wherever_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    met = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    scanner = TextStopScanner(stops)
    shown = ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if not scanner.stopped:
            shown += scanner.scan(text[start:end])
    if not scanner.stopped:
        shown += scanner.flush()
    assert scanner.stopped == bool(met)
    assert shown == (text[: min(met)[1]] if met else text)
