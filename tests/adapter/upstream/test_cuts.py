"""However the network cuts a stream, the client sees the same: every byte position, and pieces drawn at random."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_adapter import upstream_errors
from bridge_adapter.chunks import ChatChunks
from bridge_adapter.dialects import decoder_for
from bridge_adapter.jobs import Identity, Job, StreamOptions
from bridge_adapter.reader import Reader
from bridge_adapter.settings import Dialect
from bridge_adapter.stops import StopScanner
from bridge_adapter.wire import Broken
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
        shown += chunks.feed(reader.feed(piece))
        if reader.fault or reader.ended:
            break
    else:
        shown += chunks.feed(reader.end())
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
    for name in ("predict", "openai", "text"):
        dialect, data = STREAMS[name]
        assert "".join(TEXTS) in joined(seen(dialect, [data], 1))


@pytest.mark.parametrize("name", ["no end", "broken", "openai without a finish reason"])
def test_what_does_not_end_well_is_an_error(name: str) -> None:
    dialect, data = STREAMS[name]
    *_, error, done, _rest = seen(dialect, [data], 1).split(b"\n\n")
    assert b'"error"' in error
    assert done == b"data: [DONE]"


_few = st.text("abc", max_size=30)
_stops = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4)


@given(_few, _stops, st.data())
def test_stop_strings_are_found_wherever_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    met = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    scanner = StopScanner(stops)
    shown = ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if not scanner.stopped:
            shown += scanner.feed(text[start:end])
    if not scanner.stopped:
        shown += scanner.flush()
    assert scanner.stopped == bool(met)
    assert shown == (text[: min(met)[1]] if met else text)
