"""Odd values that real clients send: what means nothing is accepted, and a refusal names the rule that is broken."""

from codecs import BOM_UTF8
from typing import Any

import pytest

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api.operations import OPERATIONS
from tests.adapter.expect import error
from tests.adapter.harness import Bridge
from tests.adapter.stub import Stub, replies

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
FLAT_TOOL = {"type": "function", "name": "f"}
MINIMAL: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [USER]},
    "/completions": {"prompt": "Hi"},
    "/responses": {"input": [USER]},
}


def bodies(path: str, **fields: Any) -> list[dict[str, Any]]:
    return OPERATIONS[path].plan({**MINIMAL[path], **fields}).job.bodies


def nulls(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


@pytest.mark.parametrize("path", MINIMAL)
def test_null_is_absent_for_every_field_and_for_fields_that_are_none(path: str) -> None:
    expected = bodies(path)
    for name in (*OPERATIONS[path].known, "guided_json", "thinking"):
        if name not in MINIMAL[path]:
            assert bodies(path, **{name: None}) == expected, name


@pytest.mark.parametrize(
    ("path", "fields", "plain"),
    [
        (
            "/chat/completions",
            {"messages": [USER | nulls("name", "tool_calls", "tool_call_id", "function_call", "refusal", "thinking")]},
            {},
        ),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"} | nulls("image_url", "file")]}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        ),
        ("/chat/completions", {"response_format": {"type": "text"} | nulls("json_schema", "schema")}, {}),
        (
            "/chat/completions",
            {"response_format": {"type": "json_object"} | nulls("json_schema", "schema")},
            {"response_format": {"type": "json_object"}},
        ),
        ("/chat/completions", {"tools": [TOOL | nulls("custom", "cache_control")]}, {"tools": [TOOL]}),
        (
            "/chat/completions",
            {"stream": True, "stream_options": nulls("include_usage", "chunk_size")},
            {"stream": True},
        ),
        ("/responses", {"input": [USER | nulls("id", "status", "phase", "call_id")]}, {}),
        ("/responses", {"tools": [FLAT_TOOL | nulls("parameters", "strict", "function")]}, {"tools": [FLAT_TOOL]}),
    ],
)
def test_null_is_absent_at_any_depth(path: str, fields: dict[str, Any], plain: dict[str, Any]) -> None:
    assert bodies(path, **fields) == bodies(path, **plain)


def test_an_empty_list_of_calls_is_no_call() -> None:
    """As vLLM's answers have it, and so what clients send back."""
    turns = [USER, {"role": "assistant", "content": "Hello", "tool_calls": []}, USER]
    (body,) = bodies("/chat/completions", messages=turns)
    assert body["messages"][1] == {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize("fields", [{"top_logprobs": 0}, {"top_logprobs": 0, "logprobs": False}])
def test_no_alternatives_without_log_probabilities_is_no_request_for_them(fields: dict[str, Any]) -> None:
    assert bodies("/chat/completions", **fields) == bodies("/chat/completions")


@pytest.mark.parametrize(
    ("path", "field", "sent", "param", "code"),
    [
        ("/chat/completions", "seed", b"18446744073709551616", "seed", "integer_above_max_value"),
        ("/chat/completions", "seed", b"-18446744073709551616", "seed", "integer_below_min_value"),
        ("/chat/completions", "max_tokens", b"1" + b"0" * 30, "max_tokens", "integer_above_max_value"),
        ("/chat/completions", "n", b"99999999999999999999", "n", "integer_above_max_value"),
        ("/chat/completions", "seed", b"1.5", "seed", "invalid_type"),
        ("/chat/completions", "seed", b"1e3", "seed", "invalid_type"),
        ("/completions", "prompt", b"[36893488147419103232]", "prompt[0]", "integer_above_max_value"),
        ("/completions", "prompt", b"[1.5]", "prompt[0]", "invalid_type"),
    ],
)
async def test_integers_of_any_length_are_integers(
    bridge: Bridge, path: str, field: str, sent: bytes, param: str, code: str
) -> None:
    given = b'"messages": [{"role": "user", "content": "Hi"}], ' if path == "/chat/completions" else b""
    answered = await bridge.post(f"/v1{path}", b'{"model": "m", %b"%b": %b}' % (given, field.encode(), sent))
    status, fields = error(answered)
    assert (status, fields["param"], fields["code"]) == (400, param, code)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_the_least_limit_is_named(name: str) -> None:
    for value in (-1, 0):
        with pytest.raises(InvalidRequest, match=f"Expected a value >= 1, but got {value} instead"):
            bodies("/chat/completions", **{name: value})
    with pytest.raises(InvalidRequest, match="Expected a value >= 0, but got -1 instead"):
        bodies("/chat/completions", **{name: -1, "prompt_logprobs": 0})


async def test_a_byte_order_mark_is_skipped(bridge: Bridge, stub: Stub) -> None:
    body = BOM_UTF8 + b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    assert (await bridge.post("/v1/chat/completions", body)).status == 200
    assert stub.last == {"messages": [USER]}
    assert (await bridge.post("/v1/chat/completions", BOM_UTF8 + body)).status == 400


@pytest.mark.parametrize(
    ("path", "fields", "named", "expected"),
    [
        ("/responses", {}, "messages", "input"),
        ("/responses", {}, "messages[1].content", "input"),
        ("/responses", {"max_output_tokens": 99}, "max_tokens", "max_output_tokens"),
        ("/chat/completions", {"max_completion_tokens": 99}, "max_tokens", "max_completion_tokens"),
        ("/chat/completions", {"max_tokens": 99}, "max_tokens", "max_tokens"),
        ("/chat/completions", {}, "messages[0].content", "messages[0].content"),
        ("/completions", {"best_of": 2}, "n", "best_of"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_truss_names_the_field_as_the_request_does(
    bridge: Bridge, stub: Stub, path: str, fields: dict[str, Any], named: str, expected: str, stream: bool
) -> None:
    stub.play = replies({"error": {"message": f"Invalid '{named}': no.", "param": named, "code": "c"}}, 400)
    answered = await bridge.post(
        f"/v1{path}", {"model": "m", "stream": stream and "best_of" not in fields, **MINIMAL[path], **fields}
    )
    status, refused = error(answered)
    assert (status, refused["param"], refused["message"]) == (400, expected, f"Invalid '{expected}': no.")


ITEM = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "x", "output": "1"}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([USER, OUTPUT], "No tool call found for function call output with call_id x."),
        ([USER, ITEM, OUTPUT, OUTPUT], "No tool call found for function call output with call_id x."),
        ([USER, ITEM], "No tool output found for function call x."),
        ([USER, ITEM, USER, OUTPUT], "No tool output found for function call x."),
        ([USER, ITEM, OUTPUT, ITEM], "No tool output found for function call x."),
    ],
)
def test_outputs_of_items_follow_their_calls(items: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bodies("/responses", input=items)
    assert (refused.value.message, refused.value.param) == (message, "input")
