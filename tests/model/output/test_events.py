import json

from truss_model.answer import ShownToken, TextDelta, ToolCallDelta
from truss_model.engine.generation import TokenLogprob
from truss_model.errors import EngineUnwell, RequestError
from truss_model.events import (
    Choice,
    Usage,
    done_line,
    error_body,
    error_line,
    finish_line,
    result,
    start_line,
    text_line,
    tool_call_line,
)
from truss_model.logprobs import logprob_entry
from truss_model.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    tokens=[b"", b"a", b" b", b"\xf0\x9f", b" c"], special_ids=frozenset({0}), space_marked=frozenset({2, 4})
)
NOTHING = float("-inf")


def test_every_line_is_one_json_object() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
    lines = [
        start_line(3, 1, "m"),
        text_line(0, TextDelta("é\n\u2028"), None, 2),
        text_line(1, TextDelta("x"), [], 1),
        tool_call_line(0, ToolCallDelta(0, "id", "name", "{"), 4),
        tool_call_line(0, ToolCallDelta(0, arguments="}"), 1),
        finish_line(0, "tool_calls"),
        done_line(usage),
        error_line(EngineUnwell("no")),
    ]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    assert [json.loads(line) for line in lines] == [
        {"event": "start", "prompt_tokens": 3, "cached_tokens": 1, "model": "m"},
        {"event": "delta", "index": 0, "text": "é\n\u2028", "tokens": 2},
        {"event": "delta", "index": 1, "text": "x", "tokens": 1, "logprobs": []},
        {"event": "tool_call", "index": 0, "call": 0, "id": "id", "name": "name", "arguments": "{", "tokens": 4},
        {"event": "tool_call", "index": 0, "call": 0, "arguments": "}", "tokens": 1},
        {"event": "finish", "index": 0, "reason": "tool_calls"},
        {
            "event": "done",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 1},
        },
        {
            "event": "error",
            "status": 503,
            "type": "service_unavailable_error",
            "message": "no",
            "param": None,
            "code": None,
        },
    ]


def test_the_whole_answer() -> None:
    spoken, called = Choice(0, logprobs=True), Choice(1, logprobs=False)
    spoken.add_text(TextDelta("a"), [{"token": "a"}])
    spoken.add_text(TextDelta("b"), [{"token": "b"}])
    spoken.finish_reason = "stop"
    called.add_tool_call(ToolCallDelta(0, "x", "f", "{"))
    called.add_tool_call(ToolCallDelta(1, "y", "g", "{}"))
    called.add_tool_call(ToolCallDelta(0, arguments="}"))
    called.finish_reason = "tool_calls"
    assert result([spoken, called], Usage(3, 2, 0), "m") == {
        "choices": [
            {
                "index": 0,
                "text": "ab",
                "tool_calls": [],
                "finish_reason": "stop",
                "logprobs": [{"token": "a"}, {"token": "b"}],
            },
            {
                "index": 1,
                "text": "",
                "tool_calls": [
                    {"id": "x", "name": "f", "arguments": "{}"},
                    {"id": "y", "name": "g", "arguments": "{}"},
                ],
                "finish_reason": "tool_calls",
                "logprobs": None,
            },
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 0},
        "model": "m",
    }


def test_an_error_is_openais_object() -> None:
    assert error_body(RequestError("bad", param="n", code="invalid_type")) == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": "n", "code": "invalid_type"}
    }


def test_a_tokens_logprob_with_its_alternatives() -> None:
    token = ShownToken(2, b" b", TokenLogprob(-0.5, ((2, -0.5), (3, -1.0), (0, NOTHING))))
    assert logprob_entry(token, VOCABULARY) == {
        "token": " b",
        "logprob": -0.5,
        "bytes": [32, 98],
        "top_logprobs": [
            {"token": " b", "logprob": -0.5, "bytes": [32, 98]},
            {"token": "\ufffd", "logprob": -1.0, "bytes": [0xF0, 0x9F]},
            {"token": "", "logprob": -9999.0, "bytes": []},
        ],
    }


def test_an_answers_first_token_and_its_alternatives_lack_the_space() -> None:
    token = ShownToken(2, b"b", TokenLogprob(-0.5, ((2, -0.5), (4, -1.0), (1, -2.0))))
    entry = logprob_entry(token, VOCABULARY)
    assert [entry["token"], *(top["token"] for top in entry["top_logprobs"])] == ["b", "b", "c", "a"]
