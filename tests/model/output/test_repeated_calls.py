"""Where an answer of tool calls ends: at a call that it has made before, or where it is cut."""

import json

import pytest

from tests.model.output.test_tool_calls import CALLS, FORMATS, HERMES, LIST, TOOLS, read, told
from tests.model.tokenizers_at_hand import SpelledTokenizer
from truss_model.output.answer import RowDecoder
from truss_model.request.tools import ToolUse
from truss_model.tokenizer.tool_format import ToolStyle

F1, F2, G1 = (json.dumps({"name": name, "arguments": {"a": a}}) for name, a in (("f", 1), ("f", 12), ("g", 1)))


def written_calls(style: ToolStyle, *calls: str) -> str:
    if style is HERMES:
        return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
    return f"{CALLS}[{', '.join(calls)}]"


@pytest.mark.parametrize("style", [LIST, HERMES])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_call_that_repeats_an_earlier_one_is_not_shown_and_ends_the_answer(style: ToolStyle, step: int) -> None:
    written = written_calls(style, F1, G1, F2, F1, G1) + "x"
    answer, deltas = read(style, written, range(step, len(written), step))
    arguments = '{"a": 1}'
    assert told(deltas) == ("", [("f", arguments), ("g", arguments), ("f", '{"a": 12}')])
    assert answer.stopped
    assert answer.finish_reason("stop") == "tool_calls"


@pytest.mark.parametrize("style", [LIST, HERMES])
def test_where_a_call_is_required_what_is_cut_of_one_is_no_content(style: ToolStyle) -> None:
    whole = written_calls(style, F1, G1)
    for end in range(len(whole) - 1):
        pieces: list[bytes | None] = [None, None, None, *(bytes([byte]) for byte in range(256))]
        ids = [0] if style is LIST else []
        ids += [byte + 3 for byte in whole.removeprefix(CALLS)[:end].encode()]
        answer = RowDecoder(SpelledTokenizer(pieces, FORMATS[style]), tools=ToolUse(TOOLS, TOOLS, "required"))
        content, calls = told([*answer.decode(ids), *answer.finish(cut=True)])
        assert content == ""
        assert [name for name, _ in calls] == ["f", "g"][: len(calls)]
        assert answer.finish_reason("length") == "length"


def test_where_a_call_is_required_text_behind_the_calls_ends_the_answer() -> None:
    pieces = [written_calls(HERMES, F1).encode(), b"\n", b"\n ", b"The", b" weather"]
    answer = RowDecoder(SpelledTokenizer(pieces, FORMATS[HERMES]), tools=ToolUse(TOOLS, TOOLS, "required"))
    deltas = []
    for token_id, stopped in ((0, False), (1, False), (2, False), (3, True)):
        deltas += answer.decode([token_id])
        assert answer.stopped is stopped
    assert told([*deltas, *answer.finish()]) == ("", [("f", '{"a": 1}')])
    assert answer.finish_reason("stop") == "tool_calls"
