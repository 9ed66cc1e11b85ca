import json

from truss_model.engine.generation import PromptScore, TokenLogprob
from truss_model.errors import EngineUnwell, RequestError
from truss_model.output.answer import ShownToken, TextDelta, ToolCallDelta
from truss_model.output.events import (
    KEEP_ALIVE,
    AnswerEvent,
    DoneEvent,
    ErrorEvent,
    FinishEvent,
    PromptEvent,
    RowAnswer,
    StartEvent,
    TextEvent,
    ToolCallEvent,
    Usage,
    error_body,
    lines,
    result,
)
from truss_model.output.logprobs import logprob_entry, prompt_entries
from truss_model.tokenizer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    tokens=[b"", b"a", b" b", b"\xf0\x9f", b" c"], special_ids=frozenset({0}), space_marked=frozenset({2, 4})
)
NOTHING = float("-inf")


def test_every_event_is_one_line_of_json() -> None:
    events: list[AnswerEvent] = [
        StartEvent(3, 1, "m"),
        TextEvent(0, "é\n\u2028", 2),
        TextEvent(1, "x", 1, []),
        ToolCallEvent(0, 0, "id", "name", "{", 4),
        ToolCallEvent(0, 0, None, None, "}", 1),
        FinishEvent(0, "tool_calls"),
        DoneEvent(Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)),
        ErrorEvent(EngineUnwell("no")),
    ]
    written = [lines([event]) for event in events]
    assert lines(events) == "".join(written)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    assert [json.loads(line) for line in written] == [
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


def test_a_batch_without_events_keeps_the_line_alive() -> None:
    assert lines([]) == KEEP_ALIVE


def test_the_whole_answer() -> None:
    assert "prompt_logprobs" not in result([], Usage(0, 0, 0), "m")
    assert result([], Usage(0, 0, 0), "m", [{"token": "a"}])["prompt_logprobs"] == [{"token": "a"}]
    spoken, called = RowAnswer(0, logprobs=True), RowAnswer(1, logprobs=False)
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


def test_prompt_tokens_are_named_and_their_bytes_are_the_text() -> None:
    vocabulary = Vocabulary([b"", b" a", b" b"], frozenset({0}), frozenset({1, 2}), control_names={0: "<s>"})
    scores = [PromptScore(-1.5, 2, ((2, -0.5), (1, -1.5))), PromptScore(NOTHING, 3, ((0, -0.25),))]
    first, *others = prompt_entries([0, 1, 2], scores, vocabulary)
    assert first == {"token": "<s>", "id": 0, "bytes": [], "logprob": None, "rank": None, "top_logprobs": []}
    assert others == [
        {
            **{"token": "a", "id": 1, "bytes": [97], "logprob": -1.5, "rank": 2},
            "top_logprobs": [
                {"token": "b", "id": 2, "bytes": [98], "logprob": -0.5},
                {"token": "a", "id": 1, "bytes": [97], "logprob": -1.5},
            ],
        },
        {
            **{"token": " b", "id": 2, "bytes": [32, 98], "logprob": -9999.0, "rank": 3},
            "top_logprobs": [{"token": "<s>", "id": 0, "bytes": [], "logprob": -0.25}],
        },
    ]
    assert json.loads(lines([PromptEvent([first])])) == {"event": "prompt", "prompt_logprobs": [first]}
