"""Constrained answers against jsonschema, with the real v3 vocabulary; hostile schemas; where an answer may end."""

import json
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.model.grammar.schemas import RandomModel, object_schema, random_schema
from tests.model.output.test_detokenizer import text_of
from tests.model.output.test_tool_calls import told
from tests.model.tokenizers_at_hand import SpelledTokenizer, mistral
from truss_model.errors import GenerationFailed, RequestError
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.request.response_format import JsonFormat
from truss_model.request.tools import ToolUse, parse_tool_use
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer
from truss_model.tokenizer.tool_format import ToolFormat, ToolStyle

JSON = JsonFormat({"type": "object"}, strict=True)
CHECKER = jsonschema.FormatChecker(["date", "uuid", "ipv4", "email"])


class ByteTokenizer(SpelledTokenizer):
    """A token a byte, and before them the control tokens of Mistral's v11."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]


def byte_tokenizer(style: ToolStyle) -> ByteTokenizer:
    spelling = [None, None, None, *(bytes([byte]) for byte in range(256))]
    return ByteTokenizer(spelling, ToolFormat(style, 1, 2, None), frozenset({0}))


@cache
def compiler(version: str = "v3") -> GrammarCompiler:
    return GrammarCompiler(tokenizer(version))


@cache
def tokenizer(version: str = "v3") -> ChatTokenizer:
    styles = {style.value: style for style in ToolStyle}
    return byte_tokenizer(styles[version]) if version in styles else mistral(version)


@cache
def model(version: str = "v3") -> RandomModel:
    return RandomModel(tokenizer(version), seed=1)


def schema_format(schema: Mapping[str, Any], strict: bool = True) -> JsonFormat:
    return JsonFormat(schema, strict)


def tool(name: str, parameters: object = None, strict: bool = False) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


def validate(instance: object, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(instance)


@pytest.mark.parametrize("part", range(4))
def test_every_finished_answer_fits_its_schema(part: int) -> None:
    finished = 0
    for seed in range(part * 50, part * 50 + 50):
        schema = object_schema(random.Random(seed)) if seed % 4 else random_schema(random.Random(seed))
        state = compiler().compile(schema_format(schema))
        assert state is not None
        deltas, ended, _ = model().answer(state())
        if ended:
            finished += 1
            validate(json.loads(text_of(deltas)), schema)
    assert finished >= 45


@pytest.mark.parametrize("version", ["v3", "tekken", "mistral_args", "hermes"])
def test_every_finished_call_fits_its_parameters(version: str) -> None:
    calls = finished = 0
    seeds = {"v3": 30, "tekken": 2}.get(version, 6)
    for seed in range(seeds):
        parameters = {name: object_schema(random.Random(f"{seed}{name}")) for name in ("f", "g")}
        tools = [tool("f", parameters["f"], strict=True), tool("g", parameters["g"])]
        choice: Any = ["required", {"type": "function", "function": {"name": "g"}}][seed % 2]
        use = parse_tool_use(tools, choice, seed % 3 > 0)
        state = compiler(version).compile(tools=use)
        assert state is not None
        deltas, ended, _ = model(version).answer(state(), use, max_tokens=400 if version == "v3" else 1_500)
        content, told_calls = told(deltas)
        assert content == ""
        if not ended:
            continue
        finished += 1
        for name, arguments in told_calls:
            assert name is not None
            validate(json.loads(arguments), parameters[name])
        assert seed % 2 == 0 or {name for name, _ in told_calls} == {"g"}
        assert seed % 3 or len(told_calls) == 1
        calls += len(told_calls)
    assert finished >= seeds * 2 // 3
    assert calls >= finished


def test_an_answer_may_end_only_where_it_is_whole() -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 9}
    state = compiler().compile(schema_format(schema))
    assert state is not None
    for _ in range(10):
        _, _, ends = model().answer(state(), at_once=False, max_tokens=60)
        for ids in ends:
            validate(json.loads(b"".join(map(tokenizer().vocabulary.token_bytes, ids))), schema)
    number = compiler().compile(schema_format({"type": "integer", "minimum": 100, "maximum": 99_999}))
    assert number is not None
    ends = [model().answer(number(), at_once=False)[2] for _ in range(5)]
    assert all(100 <= int(text_of_ids(ids)) <= 99_999 for answer in ends for ids in answer)
    assert max(map(len, ends)) > 1  # "100" may end, or go on


def text_of_ids(ids: list[int]) -> str:
    return b"".join(map(tokenizer().vocabulary.token_bytes, ids)).decode()


def test_rows_of_one_request_do_not_share_their_state() -> None:
    state = compiler().compile(schema_format({"enum": ["abc", "xyz"]}))
    assert state is not None
    first, second = state(), state()
    for token in tokenizer().encode_ordinary('"abc"'):
        first.accept(token)
    with pytest.raises(GenerationFailed):
        first.accept(tokenizer().encode_ordinary("x")[0])
    deltas, ended, _ = model().answer(second)
    assert ended
    assert json.loads(text_of(deltas)) in ("abc", "xyz")


def test_the_answer_may_begin_as_sentencepiece_begins_a_text() -> None:
    state = compiler().compile(JSON)
    assert state is not None
    constraint = state()
    with_space, bare = tokenizer().encode_text('{"')[1], tokenizer().encode_ordinary('{"')[0]
    words = np.zeros(1024, np.int32)
    constraint.fill(words)
    allowed = np.unpackbits(words.view(np.uint8), bitorder="little")
    assert allowed[with_space]
    assert allowed[bare]
    assert not allowed[2]


@pytest.mark.parametrize(
    "tools", [ToolUse(), parse_tool_use([tool("f")]), parse_tool_use([tool("f", strict=True)], "none")]
)
def test_nothing_is_constrained_without_need(tools: ToolUse) -> None:
    assert compiler().compile(None, tools) is None


@pytest.mark.parametrize("version", ["v3", "mistral_args", "hermes"])
def test_a_call_to_a_strict_tool_fits_even_where_text_is_allowed(version: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    use = parse_tool_use([tool("f", parameters, strict=True)], "auto")
    factory = compiler(version).compile(None, use)
    assert factory is not None
    head = {
        "v3": '[{"name": "f", "arguments": {"',
        "mistral_args": "f",
        "hermes": '<tool_call>\n{"name": "f", "arguments": {"',
    }
    written = tokenizer(version).encode_ordinary(head[version])
    lead = {"v3": [5], "mistral_args": [1], "hermes": []}[version]
    tail = {"v3": [], "mistral_args": [2], "hermes": []}[version]
    state = factory()
    for token in [*tokenizer(version).encode_ordinary("Text first. "), *lead, *written, *tail]:
        state.accept(token)
    wrong = tokenizer(version).encode_ordinary("m" if version != "mistral_args" else "[")[0]
    with pytest.raises(GenerationFailed):
        state.accept(wrong)
    assert 0 < len(model(version).answer(factory(), use, max_tokens=20)[2])  # and may be text alone


def test_json_or_a_call() -> None:
    use = parse_tool_use([tool("f", {"type": "object", "additionalProperties": False})], "auto")
    factory = compiler().compile(schema_format({"const": 7}), use)
    assert factory is not None
    seen = set()
    for _ in range(20):
        content, calls = told(model().answer(factory(), use)[0])
        seen.add(content.strip() or calls[0][0])
    assert seen == {"7", "f"}


def test_what_cannot_be_enforced_is_refused_if_strict_and_left_to_the_model_if_not() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "not": {"required": ["b"]}}
    with pytest.raises(RequestError) as refused:
        compiler().compile(schema_format(schema, strict=True))
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_schema")
    assert compiler().compile(schema_format(schema, strict=False)) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strong"},
        {"type": 5},
        {"properties": []},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "http://localhost/schema"},
        {"$ref": "#"},
        {"type": "integer", "minimum": 5, "maximum": 4},
    ],
)
def test_a_schema_that_cannot_be_met_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        compiler().compile(schema_format(schema))
    assert (refused.value.param, refused.value.status) == ("response_format", 400)


def test_the_tool_at_fault_is_named() -> None:
    use = parse_tool_use([tool("f"), tool("g", {"type": "object", "not": {}}, strict=True)], "required")
    with pytest.raises(RequestError) as refused:
        compiler().compile(tools=use)
    assert refused.value.param == "tools[1].function.parameters"


def chain(keyword: str, length: int) -> dict[str, Any]:
    links = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(length)}
    return {"$defs": links | {f"d{length}": {"type": "string"}}, "$ref": "#/$defs/d0"}


HOSTILE: dict[str, Any] = {
    "alternatives of alternatives": chain("anyOf", 40),
    "all of all": chain("allOf", 40),
    "recursion": {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"items": {"$ref": "#/$defs/a"}}]}},
        "$ref": "#/$defs/a",
    },
    "product": {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]} for i in range(10)]},
    "optional members": {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(300)}},
    "words": {"enum": [f"word {n}" for n in range(10_000)]},
    "nested repeats": {"type": "string", "pattern": "((x{1,100}){1,100}){1,100}"},
    "many states": {"type": "string", "pattern": "^.*a.{20}$"},
    "intersection": {"allOf": [{"type": "string", "pattern": f".*{c}.{{15}}"} for c in "abcdefgh"]},
    "multiples": {"type": "integer", "multipleOf": 982_451_653},
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    "length": {"type": "string", "minLength": 10**9},
    "depth": {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"$ref": "#"}}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_or_harmless(name: str) -> None:
    """Either way within the limits of work: what is compiled goes on for some hundred tokens, or fails its row."""
    try:
        factory = compiler().compile(schema_format(HOSTILE[name]))
    except RequestError as error:
        assert error.param == "response_format"
        return
    assert factory is not None
    try:
        model().answer(factory(), max_tokens=150)
    except (GenerationFailed, RequestError) as error:
        assert "grammar" in error.message or error.param == "response_format"
        assert len(error.message) < 400


@pytest.mark.parametrize("words", [1023, 1025])
def test_a_model_may_have_fewer_or_more_ids_than_the_tokenizer(words: int) -> None:
    factory = compiler().compile(JSON)
    assert factory is not None
    own, models = np.zeros(1024, np.int32), np.full(words, -1, np.int32)
    factory().fill(own)
    factory().fill(models)
    assert own.any()
    assert models.tolist() == [*own, 0][:words]
