"""Objects are closed, white space is bounded, and what is refused is placed, seen through the compiled grammar."""

from typing import Any

import pytest

from tests.model.grammar.test_grammar import byte_tokenizer, compiler, schema_format, tokenizer, tool
from truss_model.errors import GenerationFailed, RequestError
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.grammar.schema import close_objects
from truss_model.request.tools import parse_tool_use
from truss_model.tokenizer.tool_format import ToolStyle

INTEGER = {"type": "integer"}
OBJECT = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}


def accepts(text: str, schema: dict[str, Any], *, strict: bool = False) -> bool:
    factory = compiler().compile(schema_format(schema, strict))
    assert factory is not None
    state = factory()
    try:
        for token in tokenizer().encode_ordinary(text):
            state.accept(token)
    except GenerationFailed:
        return False
    return True


@pytest.mark.parametrize("text", ['{"a":1}', '{"a": 1}', '{\n  "a": 1\n}', '{\n\t"a": 1\n}', '{ "a" : 1 }'])
def test_a_blank_or_a_newline_with_its_indent_may_stand_at_each_gap(text: str) -> None:
    assert accepts(text, OBJECT)


@pytest.mark.parametrize("text", ['{"a":  1', '{\n\n"a"', '{ \n"a"', '{"a":1 \n', '{"a":1\n\n', "{\t"])
def test_no_more_than_that(text: str) -> None:
    assert not accepts(text, OBJECT)


@pytest.mark.parametrize("strict", [False, True])
def test_an_object_with_properties_has_no_others(strict: bool) -> None:
    assert not accepts('{"a": 1, "b"', OBJECT, strict=strict)
    assert not accepts('{"o": {"b"', {"properties": {"o": OBJECT}, "type": "object"}, strict=strict)
    assert accepts('{"a": 1, "b": 2}', {**OBJECT, "additionalProperties": INTEGER}, strict=strict)
    assert accepts('{"b": 2}', {"type": "object"}, strict=strict)


A, B, D = {"properties": {"a": {}}}, {"properties": {"b": {}}}, {"$ref": "#/$defs/d"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, {**A, "additionalProperties": False}),
        ({**A, "additionalProperties": True}, {**A, "additionalProperties": True}),
        ({**A, "required": ["z"]}, {**A, "required": ["z"]}),  # a member without a schema of its own
        ({"items": A}, {"items": {**A, "additionalProperties": False}}),
        ({"anyOf": [A, B]}, {"anyOf": [{**A, "additionalProperties": False}, {**B, "additionalProperties": False}]}),
        ({"allOf": [A, B]}, {"allOf": [A, B]}),  # each has to allow the other's
        ({**A, "anyOf": [B]}, {**A, "anyOf": [B], "additionalProperties": False}),
        ({"not": A}, {"not": A}),
        ({"enum": [A]}, {"enum": [A]}),  # a value, not a schema
        (
            {"$defs": {"d": A}, "$ref": "#/$defs/d"},
            {"$defs": {"d": {**A, "additionalProperties": False}}, "$ref": "#/$defs/d"},
        ),
        (
            {"$defs": {"d": A}, "allOf": [{"$ref": "#/$defs/d"}, B]},
            {"$defs": {"d": A}, "allOf": [{"$ref": "#/$defs/d"}, B]},
        ),
    ],
)
def test_which_objects_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert close_objects(schema) == expected


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"type": "object"}, {"type": "object", "properties": {}}, {"properties": {}, "required": []}],
)
def test_a_function_without_parameters_gets_an_empty_object(parameters: Any) -> None:
    own = byte_tokenizer(ToolStyle.HERMES)
    use = parse_tool_use([tool("f", parameters)], "required")
    factory = GrammarCompiler(own).compile(tools=use)
    assert factory is not None
    for end, allowed in (("}", True), ('"', False), (" ", False), ("\n", False)):
        state = factory()
        for token in own.encode_ordinary('<tool_call>\n{"name": "f", "arguments": {'):
            state.accept(token)
        if allowed:
            state.accept(own.encode_ordinary(end)[0])
        else:
            with pytest.raises(GenerationFailed):
                state.accept(own.encode_ordinary(end)[0])


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#"}, "a '$ref' refers to itself, directly or through other references."),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "a '$ref' refers to itself, directly or through other references.",
        ),
        (
            {"type": "object", "properties": {"n": {"type": "array", "uniqueItems": True, "contains": {}}}},
            "not supported: 'contains' at '#/properties/n', 'uniqueItems' at '#/properties/n'.",
        ),
        ({"anyOf": [INTEGER, {"not": INTEGER}]}, "not supported: 'not' at '#/anyOf/1'."),
        ({"items": {"type": "string", "format": "colour"}}, "unknown format 'colour' at '#/items'."),
    ],
)
def test_a_refusal_says_where_in_the_schema(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError) as refused:
        compiler().compile(schema_format(schema))
    assert refused.value.message == f"Invalid schema for 'response_format': {why}"
    with pytest.raises(RequestError) as refused:
        parameters = schema if "$ref" in schema else {"properties": {"p": schema}}
        compiler().compile(tools=parse_tool_use([tool("f", parameters, strict=True)], "required"))
    assert refused.value.param == "tools[0].function.parameters"


def test_a_model_may_turn_to_text_behind_a_required_call() -> None:
    own = byte_tokenizer(ToolStyle.HERMES)
    factory = GrammarCompiler(own).compile(tools=parse_tool_use([tool("f")], "required"))
    assert factory is not None
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for text in (call, f"{call}\n{call}", f"{call}\nThe weather", f"{call}\n{call}\n\nDone"):
        state = factory()
        for token in own.encode_ordinary(text):
            state.accept(token)
        state.accept(0)  # the end
    state = factory()
    with pytest.raises(GenerationFailed):
        state.accept(own.encode_ordinary("T")[0])
