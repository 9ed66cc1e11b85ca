"""Tool calls in every style: well-formed ones against json.loads, and whatever a model may write instead."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tokenizers_at_hand import SpelledTokenizer
from truss_model.engine.generation import TokenLogprob
from truss_model.output.answer import Delta, RowDecoder, TextDelta, ToolCallDelta, new_call_id
from truss_model.request.tools import FunctionTool, ToolUse
from truss_model.tokenizer.tool_format import ToolFormat, ToolStyle

CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKS = {CALLS: 0, ARGS: 1, CALL_ID: 2}
FORMATS = {style: ToolFormat(style, 0, 1, 2) for style in ToolStyle}
TOOLS = [FunctionTool("f"), FunctionTool("g")]
LIST, V11, HERMES = ToolStyle.MISTRAL_LIST, ToolStyle.MISTRAL_ARGS, ToolStyle.HERMES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(alphabet='a"\\{}[],é🙂</>', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"}', max_size=3), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(alphabet="ab", max_size=3), JSON, max_size=3)
WRITTEN_CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "g", "get_weather"]), ARGUMENTS), min_size=1, max_size=3, unique_by=json.dumps
)


def read(
    style: ToolStyle, written: str, cuts: Sequence[int] = (), *, parallel: bool = True, finish: bool = True
) -> tuple[RowDecoder, list[Delta]]:
    """Let an answer read `written`, in which Mistral's marks are control tokens, cut into tokens as told."""
    pieces: list[bytes | None] = [None, None, None]
    token_ids: list[int] = []
    split = "(" + "|".join(map(re.escape, MARKS)) + ")" if style is not HERMES else "(\0)"
    for segment in re.split(split, written):
        if segment in MARKS and style is not HERMES:
            token_ids.append(MARKS[segment])
            continue
        data = segment.encode()
        edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
        for start, end in pairwise(edges):
            if start < end:
                token_ids.append(len(pieces))
                pieces.append(data[start:end])
    ids = (f"call{number:05}" for number in count())
    tokenizer = SpelledTokenizer(pieces, FORMATS[style])
    answer = RowDecoder(tokenizer, tools=ToolUse(TOOLS, TOOLS, "auto", parallel), new_call_id=lambda: next(ids))
    deltas = [delta for token_id in token_ids for delta in answer.decode([token_id], [TokenLogprob(-1.0)])]
    return answer, deltas + (answer.finish() if finish else [])


def told(deltas: Sequence[Delta]) -> tuple[str, list[tuple[str | None, str]]]:
    """(content, [(name, arguments)]); checks that a call's first piece, and only that, names it."""
    content, calls = "", list[tuple[str | None, str]]()
    for delta in deltas:
        if isinstance(delta, TextDelta):
            content += delta.text
            assert not delta.tokens or b"".join(token.data for token in delta.tokens).decode() == delta.text
        elif delta.name is not None:
            assert delta.call == len(calls)
            assert delta.id is not None
            calls.append((delta.name, delta.arguments))
        else:
            assert delta.id is None
            assert delta.call == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return content, calls


def write(style: ToolStyle, calls: Sequence[tuple[str, Any]], spacing: dict[str, Any], extra: bool) -> str:
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    if extra:  # v3's own order of keys has an id last; others put arguments first, or write them as a string
        objects = [
            {"arguments": json.dumps(one["arguments"]) if index else one["arguments"], "name": one["name"], "id": "x"}
            for index, one in enumerate(objects)
        ]
    match style:
        case ToolStyle.MISTRAL_LIST:
            return f"{CALLS} {json.dumps(objects, **spacing)}"
        case ToolStyle.MISTRAL_ARGS:
            middle = f"{CALL_ID}AbCdEf123{ARGS}" if extra else ARGS
            return "".join(f"{CALLS}{name}{middle}{json.dumps(arguments, **spacing)}" for name, arguments in calls)
        case ToolStyle.HERMES:
            return "\n".join(f"<tool_call>\n{json.dumps(one, **spacing)}\n</tool_call>" for one in objects)


@pytest.mark.parametrize("style", ToolStyle)
@settings(max_examples=60)
@given(
    content=st.sampled_from(["", "Let me see: 1 < 2 <tool", "<tool_cal", "héllo 🙂 {"]),
    calls=WRITTEN_CALLS,
    spacing=st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
    extra=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=40),
)
def test_calls_are_told_as_they_were_written(
    style: ToolStyle,
    content: str,
    calls: list[tuple[str, Any]],
    spacing: dict[str, Any],
    extra: bool,
    cuts: list[int],
) -> None:
    answer, deltas = read(style, content + write(style, calls, spacing, extra), cuts)
    shown, got = told(deltas)
    assert shown == content
    assert [(name, json.loads(arguments)) for name, arguments in got] == calls
    assert answer.finish_reason("stop") == "tool_calls"
    assert answer.finish_reason("length") == "length"


@pytest.mark.parametrize("style", ToolStyle)
@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_of_anything_is_told_alike(style: ToolStyle, data: st.DataObject) -> None:
    fragments = [CALLS, ARGS, CALL_ID, "<tool_call>", "</tool_call>", "<tool", "[", "]", "{", "}", ",", " ", "\n", ":"]
    fragments += [
        '"name"',
        '"arguments"',
        '"f"',
        '{"name": "f", "arguments": ',
        '{"a": 1}',
        '"{}"',
        "é",
        "\\",
        '"',
        "1",
    ]
    written = "".join(data.draw(st.lists(st.sampled_from(fragments), max_size=16)))
    cuts = data.draw(st.lists(st.integers(0, 120), max_size=60))
    whole, cut = told(read(style, written)[1]), told(read(style, written, cuts)[1])
    assert cut == whole
    marks = set("".join(MARKS)) if style is not HERMES else set()
    if not whole[1]:  # no call: all of it is content, but the white space that was kept for one
        assert whole[0].split() == re.sub(r"\[(TOOL_CALLS|ARGS|CALL_ID)\]" if marks else "\0", "", written).split()


@pytest.mark.parametrize("style", ToolStyle)
@given(calls=WRITTEN_CALLS, at=st.integers(0, 400), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_a_cut_call_stays_visible(style: ToolStyle, calls: list[tuple[str, Any]], at: int, cuts: list[int]) -> None:
    written = write(style, calls, {}, False)
    written = written[: at % len(written)]
    content, got = told(read(style, written, cuts)[1])
    names = [name for name, _ in got]
    assert names == [name for name, _ in calls][: len(names)]
    for (_, arguments), (_, whole) in zip(got, calls, strict=False):
        assert json.dumps(whole).startswith(arguments)
    assert "</" not in content
    if not got and style is HERMES:
        assert content.strip() == written.strip()


MALFORMED = [
    (LIST, f"{CALLS} sorry, no", (" sorry, no", [])),
    (LIST, f'{CALLS} [{{"nam": 1}}]', (' [{"nam": 1}]', [])),
    (LIST, f'{CALLS}{{"name": "f", "arguments": {{}}}}', ("", [("f", "{}")])),
    (LIST, f'{CALLS}[{{"name": "f", "arguments": {{}}}}] and then', ("and then", [("f", "{}")])),
    (LIST, f'{CALLS}[{{"name": "f"}}]', ("", [("f", "{}")])),
    (LIST, f'{CALLS}[{{"name": "f", "arguments": {{"a": 1}} oops', ("oops", [("f", '{"a": 1}')])),
    (LIST, f'{CALLS}[{{"name": 5, "arguments": {{}}}}]', ('[{"name": 5, "arguments": {}}]', [])),
    (LIST, f'a{CALLS}[{{"name": "f", "arguments": null}}]', ("a", [("f", "null")])),
    (LIST, f'{CALLS}[{CALLS}[{{"name": "f", "arguments": "\\q"}}]', ("[", [("f", '"\\q"')])),
    (V11, f"{CALLS}f", ("f", [])),
    (V11, f"{CALLS}f{ARGS}", ("", [("f", "")])),
    (V11, f'{CALLS}f{ARGS} {{"a": [1}}', ("", [("f", '{"a": [1}')])),
    (V11, f"{CALLS}f{ARGS}{{}}{CALLS}g{ARGS}[1]", ("", [("f", "{}"), ("g", "[1]")])),
    (V11, f"{CALLS}f{ARGS}{{}} more", ("more", [("f", "{}")])),
    (V11, f"{ARGS}text", ("text", [])),
    (HERMES, "<tool_call>no</tool_call>", ("<tool_call>no</tool_call>", [])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}', ("", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}\n</tool', ("", [("f", "{}")])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}} x', (" x", [("f", "{}")])),
    (HERMES, '{"name": "f", "arguments": {}}', ('{"name": "f", "arguments": {}}', [])),
    (HERMES, "a <tool_call", ("a <tool_call", [])),
]


@pytest.mark.parametrize(("style", "written", "expected"), MALFORMED)
def test_what_is_no_call_is_content(style: ToolStyle, written: str, expected: tuple[str, Any]) -> None:
    assert told(read(style, written)[1]) == expected
    assert told(read(style, written, range(100))[1]) == expected


@pytest.mark.parametrize("style", ToolStyle)
def test_pieces_come_as_they_are_made(style: ToolStyle) -> None:
    written = {
        LIST: f'{CALLS} [{{"name": "f", "arguments": {{"a": "bc"}}}}]',
        V11: f'{CALLS}f{ARGS}{{"a": "bc"}}',
        HERMES: '<tool_call>{"name": "f", "arguments": {"a": "bc"}}</tool_call>',
    }[style]
    _, deltas = read(style, written, range(100))
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert calls[0] == ToolCallDelta(0, "call00000", "f")
    assert [delta.arguments for delta in calls[1:]] == list('{"a": "bc"}')


@pytest.mark.parametrize("style", ToolStyle)
def test_one_call_is_kept_if_they_may_not_be_parallel(style: ToolStyle) -> None:
    written = write(style, [("f", {"a": 1}), ("g", {})], {}, False)
    for cuts in ((), range(200)):
        answer, deltas = read(style, written, cuts, parallel=False)
        assert told(deltas) == ("", [("f", '{"a": 1}')])
        assert answer.stopped
        assert answer.finish_reason("stop") == "tool_calls"


def test_the_models_own_call_id_is_kept() -> None:
    _, deltas = read(V11, f"{CALLS}f{CALL_ID}AbCdEf123{ARGS}{{}}")
    assert deltas[0] == ToolCallDelta(0, "AbCdEf123", "f")


def test_made_up_ids_are_what_mistral_takes() -> None:
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", one) for one in ids)


def test_without_callable_tools_a_call_is_text() -> None:
    written = b'<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    answer = RowDecoder(SpelledTokenizer([written], FORMATS[HERMES]), tools=ToolUse(TOOLS, (), "none"))
    assert answer.decode([0]) + answer.finish() == [TextDelta(written.decode())]
    assert answer.finish_reason("stop") == "stop"


def test_stop_strings_are_looked_for_in_content_only() -> None:
    pieces = [None, None, None, b"a E", b'[{"name": "f", "arguments": {"x": "END"}}]', b"END of", b"it"]
    use = ToolUse(TOOLS, TOOLS, "auto")
    answer = RowDecoder(
        SpelledTokenizer(pieces, FORMATS[LIST]), tools=use, stop=["END"], new_call_id=lambda: "123456789"
    )
    deltas = [delta for token_id in (3, 0, 4, 5, 6) for delta in answer.decode([token_id])]
    assert deltas == [TextDelta("a E"), ToolCallDelta(0, "123456789", "f", '{"x": "END"}')]
    assert answer.stopped


def test_a_stop_string_does_not_go_on_behind_a_call() -> None:
    written = f'a E{CALLS}[{{"name": "f", "arguments": {{}}}}]ND of it'
    pieces = [None, None, None, b"a E", b'[{"name": "f", "arguments": {}}]', b"ND of it"]
    use = ToolUse(TOOLS, TOOLS, "auto")
    answer = RowDecoder(SpelledTokenizer(pieces, FORMATS[LIST]), tools=use, stop=["END"])
    deltas = [delta for token_id in (3, 0, 4, 5) for delta in answer.decode([token_id])] + answer.finish()
    assert told(deltas) == told(read(LIST, written)[1]) == ("a END of it", [("f", "{}")])
    assert not answer.stopped


def test_a_token_held_in_part_is_one_token_when_it_comes() -> None:
    pieces = [b"a <tool", b"_box> b", b" \n<tool_call>{", b'"name": "f"}']
    answer = RowDecoder(SpelledTokenizer(pieces, FORMATS[HERMES]), tools=ToolUse(TOOLS, TOOLS, "auto"))
    logprobs = [TokenLogprob(-float(number)) for number in range(4)]
    deltas = [replace(d, id=None) if isinstance(d, ToolCallDelta) else d for d in answer.decode(range(4), logprobs)]
    assert isinstance(deltas[0], TextDelta)
    assert [(token.token_id, token.data) for token in deltas[0].tokens] == [(0, b"a <tool"), (1, b"_box> b")]
    assert deltas[1:] == [ToolCallDelta(0, None, "f", "{}")]


@pytest.mark.parametrize(
    ("style", "token_ids", "head"),
    [
        (LIST, [0, 3], b'[{"name": "f", "arguments": {"a": "'),
        (V11, [0, 4, 1, 3], b'{"a": "'),
        (HERMES, [3], b'<tool_call>{"name": "f", "arguments": {"a": "'),
    ],
)
def test_arguments_cut_in_a_character_show_that_it_is_broken(
    style: ToolStyle, token_ids: list[int], head: bytes
) -> None:
    tokenizer = SpelledTokenizer([None, None, None, head + b"\xf0\x9f", b"f"], FORMATS[style])
    answer = RowDecoder(tokenizer, tools=ToolUse(TOOLS, TOOLS, "auto"))
    assert told([*answer.decode(token_ids), *answer.finish()]) == ("", [("f", '{"a": "\ufffd')])
    answer = RowDecoder(tokenizer, tools=ToolUse(TOOLS, TOOLS, "auto"))
    assert told([*answer.decode(token_ids), *answer.finish(cut=True)]) == ("", [("f", '{"a": "')])
