"""Messages and tools: every shape OpenAI allows, and what is refused, by the field's name."""

from typing import Any

import pytest

from truss_model.errors import RequestError
from truss_model.request.messages import Message, PastCall, parse_messages
from truss_model.request.tools import FunctionTool, ToolUse, parse_tool_use

USER = {"role": "user", "content": "x"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "y"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "x"}, Message("system", ("x",))),
        ({"role": "user", "content": ""}, Message("user")),
        ({"role": "user", "content": [], "name": None}, Message("user")),
        (
            {"role": "user", "content": ["a", {"type": "text", "text": "b"}], "name": "Ann"},
            Message("user", ("a", "b"), "Ann"),
        ),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", ("no",))),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, Message("assistant", ("no",))),
        (
            {
                "role": "assistant",
                "content": "x",
                "audio": None,
                "tool_calls": None,
                "function_call": None,
                "annotations": [],
            },
            Message("assistant", ("x",)),
        ),
        ({"role": "assistant", "content": "x", "prefix": True}, Message("assistant", ("x",), prefix=True)),
    ],
)
def test_shapes_of_a_message(message: dict[str, Any], expected: Message) -> None:
    assert parse_messages([message]) == [expected]


def test_results_get_their_calls_id_and_name() -> None:
    function_call = {"role": "assistant", "function_call": {"name": "g", "arguments": ""}}
    parsed = parse_messages([CALLS, RESULT, function_call, {"role": "function", "name": "g", "content": None}])
    assert parsed == [
        Message("assistant", calls=(PastCall("1", "f", "{}"),)),
        Message("tool", ("y",), "f", call_id="1"),
        Message("assistant", calls=(PastCall("function_call_2", "g", ""),)),
        Message("tool", (), "g", call_id="function_call_2"),
    ]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ("hi", "messages", "invalid_type"),
        ({}, "messages", "invalid_type"),
        ([], "messages", "empty_array"),
        ([USER, 7], "messages[1]", "invalid_type"),
        ([{"content": "x"}], "messages[0].role", "missing_required_parameter"),
        ([{"role": 1, "content": "x"}], "messages[0].role", "invalid_type"),
        ([{"role": "robot", "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": "user"}], "messages[0].content", "missing_required_parameter"),
        ([{"role": "user", "content": None}], "messages[0].content", "invalid_type"),
        ([{"role": "system", "content": 5}], "messages[0].content", "invalid_type"),
        ([{**USER, "colour": 1}], "messages[0].colour", "unknown_parameter"),
        ([{**USER, "prefix": True}], "messages[0].prefix", "unknown_parameter"),
        ([{**USER, "name": ["x"]}], "messages[0].name", "invalid_type"),
        ([{"role": "user", "content": "\udcff"}], "messages[0].content", "invalid_value"),
        ([{"role": "user", "content": [3]}], "messages[0].content[0]", "invalid_type"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type", "missing_required_parameter"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        ([{"role": "user", "content": ["a", {"type": "image_url"}]}], "messages[0].content[1]", "unsupported_value"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]", "unsupported_value"),
        ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0]", "unsupported_value"),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages[0].audio", "invalid_value"),
        ([{"role": "assistant", "content": "x", "prefix": 1}], "messages[0].prefix", "invalid_type"),
        ([{"role": "assistant", "content": "x", "prefix": True}, USER], "messages[0].prefix", "invalid_value"),
        ([{**CALLS, "prefix": True}, RESULT], "messages[0].prefix", "invalid_value"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls", "invalid_type"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]", "invalid_type"),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}],
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {}}]}],
            "messages[0].tool_calls[0].id",
            "missing_required_parameter",
        ),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0].function", "invalid_type"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}],
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        (
            [{"role": "assistant", "function_call": {"arguments": "{}"}}],
            "messages[0].function_call.name",
            "missing_required_parameter",
        ),
        *(
            (
                [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": name, "arguments": "{}"}}]}],
                "messages[0].tool_calls[0].function.name",
                "invalid_value",
            )
            for name in ("", "[TOOL_CALLS]", "<|im_end|>", "a b", "f" * 65)
        ),
        ([{"role": "tool", "content": "y"}], "messages[0].tool_call_id", "missing_required_parameter"),
        ([USER, RESULT], "messages[1].tool_call_id", "invalid_value"),
        ([CALLS, RESULT, RESULT], "messages[2].tool_call_id", "invalid_value"),
        ([CALLS, {**RESULT, "tool_call_id": "2"}], "messages[1].tool_call_id", "invalid_value"),
        ([CALLS], "messages[0].tool_calls", "invalid_value"),
        ([CALLS, USER], "messages[0].tool_calls", "invalid_value"),
        ([{"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT], "messages[0].tool_calls", "invalid_value"),
        ([CALLS, {"role": "function", "name": "g", "content": "y"}], "messages[1].name", "invalid_value"),
    ],
)
def test_a_refusal_names_the_field(messages: Any, param: str, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_messages(messages)
    assert (refused.value.param, refused.value.code, refused.value.status) == (param, code, 400)


def test_only_an_assistants_message_can_be_continued() -> None:
    with pytest.raises(RequestError) as refused:
        parse_messages([USER], continue_final_message=True)
    assert refused.value.param == "continue_final_message"
    assert parse_messages([{"role": "assistant", "content": "x"}], continue_final_message=True)[0].prefix


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


WIDE = {"type": "object", "properties": {f"p{number}": {} for number in range(200)}}
NAMED = {"type": "function", "function": {"name": "g"}}
F, G = FunctionTool("f", path="tools[0]"), FunctionTool("g", path="tools[1]")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((None, None, None), ToolUse()),
        ((None, "none", None), ToolUse()),
        (([tool(), tool("g")], None, None), ToolUse([F, G], [F, G], "auto")),
        (([tool(), tool("g")], "auto", False), ToolUse([F, G], [F, G], "auto", parallel=False)),
        (([tool(), tool("g")], "none", None), ToolUse([F, G], [], "none")),
        (([tool(), tool("g")], "required", None), ToolUse([F, G], [F, G], "required")),
        (([tool(), tool("g")], NAMED, None), ToolUse([F, G], [G], "required", parallel=False)),
        (([tool(), tool("g")], NAMED, True), ToolUse([F, G], [G], "required")),
        (
            ([tool(), tool("g")], {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}, None),
            ToolUse([F, G], [G], "auto"),
        ),
        (([tool(description=None, parameters=None, strict=None)], None, None), ToolUse([F], [F], "auto")),
    ],
)
def test_tools_and_choice(fields: tuple[Any, Any, bool | None], expected: ToolUse) -> None:
    assert parse_tool_use(*fields) == expected


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        (None, "required", "tool_choice"),
        ([tool(f"f{number}") for number in range(129)], None, "tools"),
        ([tool(f"f{number}", parameters=WIDE) for number in range(11)], None, "tools"),
        ([], None, "tools"),
        ("f", None, "tools"),
        ([1], None, "tools[0]"),
        ([{"type": "custom", "custom": {}}], None, "tools[0].type"),
        ([{"function": {"name": "f"}}], None, "tools[0].type"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([tool("")], None, "tools[0].function.name"),
        ([tool("a b")], None, "tools[0].function.name"),
        ([tool("f" * 65)], None, "tools[0].function.name"),
        ([tool(), tool()], None, "tools[1].function.name"),
        ([tool(description=1)], None, "tools[0].function.description"),
        ([tool(description="\ud800")], None, "tools[0].function.description"),
        ([tool(strict="yes")], None, "tools[0].function.strict"),
        ([tool(extra=1)], None, "tools[0].function.extra"),
        ([tool(parameters=[])], None, "tools[0].function.parameters"),
        ([tool(parameters={"title": "\ud800"})], None, "tools[0].function.parameters"),
        ([tool(parameters={"\ud800": 1})], None, "tools[0].function.parameters"),
        ([tool()], "sometimes", "tool_choice"),
        ([tool()], {"type": "custom"}, "tool_choice.type"),
        ([tool()], NAMED, "tool_choice"),
        ([tool()], {"type": "function"}, "tool_choice"),
        ([tool()], {"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (
            [tool()],
            {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": [NAMED]}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            [tool()],
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
            "tool_choice.allowed_tools.tools[0]",
        ),
    ],
)
def test_a_refused_tool_is_named(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_tool_use(tools, choice)
    assert (refused.value.param, refused.value.status) == (param, 400)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        deep(100_000),
        {"properties": {f"p{number}": {} for number in range(301)}},
        {"anyOf": [{"properties": {"a": {}, "b": {}}, "required": ["a", "b"]}] * 667},
        {"enum": list(range(20_001))},
        {"description": "x" * 500_001},
        {"x" * 500_001: 1},
        {"pattern": "a" * 2_001},
    ],
    ids=["deep", "optional", "members", "values", "text", "key", "pattern"],
)
def test_a_schema_too_large_is_refused_before_anything_walks_it(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        parse_tool_use([tool(parameters=schema)])
    assert (refused.value.param, refused.value.code) == ("tools[0].function.parameters", "invalid_schema")
