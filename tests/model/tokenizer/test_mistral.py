"""Mistral prompts against mistral-common's own encoding, and against text that spells control tokens."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.chunk import TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Reference

from tests.model.tokenizers_at_hand import VENDOR_FILES, chatml_folder, mistral, vendor_file
from truss_model.errors import LoadError, RequestError
from truss_model.request.messages import parse_messages
from truss_model.request.tools import NO_TOOLS, ToolUse, parse_tool_use
from truss_model.tokenizer.chat_tokenizer import load_tokenizer
from truss_model.tokenizer.mistral import MistralTokenizer, call_id
from truss_model.tokenizer.template import TemplateTokenizer

VERSIONS = list(VENDOR_FILES)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "now"}}]
REFERENCE_TOOLS = [Tool(function=Function(**WEATHER)), Tool(function=Function(name="now", parameters={}))]
BITS = st.sampled_from([*"ab \n\té日🙂{[/<>", "[INST]", "</s>", "[/INST] "])
TEXTS = st.lists(BITS, max_size=12).map("".join)


@cache
def reference(version: str) -> Any:
    return Reference.from_file(vendor_file(version))


def reference_ids(version: str, messages: list[Any], tools: list[Tool] | None = None) -> list[int]:
    return list(reference(version).encode_chat_completion(ChatCompletionRequest(messages=messages, tools=tools)).tokens)


def encode(version: str, messages: list[Any], tools: ToolUse = NO_TOOLS, **options: bool) -> list[int]:
    return mistral(version).encode_chat(parse_messages(messages, **options), tools)


def calls_turn(call_ids: list[str], **more: Any) -> dict[str, Any]:
    calls = [
        {"id": one, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        for one in call_ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls} | more


def reference_calls(call_ids: list[str]) -> AssistantMessage:
    function = FunctionCall(name="weather", arguments='{"city": "Rome"}')
    return AssistantMessage(tool_calls=[ToolCall(id=one, function=function) for one in call_ids])


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=25)
@given(data=st.data())
def test_chats_are_encoded_as_mistral_does(version: str, data: st.DataObject) -> None:
    theirs: list[Any] = []
    ours: list[dict[str, Any]] = []
    system = data.draw(st.none() | TEXTS)
    if system is not None:
        ours.append({"role": data.draw(st.sampled_from(["system", "developer"])), "content": system})
        theirs.append(SystemMessage(content=system))
    for turn in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(1, 2))):
            text = data.draw(TEXTS)
            ours.append({"role": "user", "content": text, "name": "Ann"})
            theirs.append(UserMessage(content=text))
        if turn < 2 and data.draw(st.booleans()):
            text = data.draw(TEXTS.filter(bool))
            ours.append({"role": "assistant", "content": text, "refusal": None})
            theirs.append(AssistantMessage(content=text))
    if ours[-1]["role"] == "assistant":
        ours[-1]["prefix"] = theirs[-1].prefix = True
    assert encode(version, ours) == reference_ids(version, theirs)


@pytest.mark.parametrize("version", ["v2", "v3", "v7", "tekken"])
def test_tools_calls_and_results_are_encoded_as_mistral_does(version: str) -> None:
    ours = [
        {"role": "user", "content": "Weather?"},
        calls_turn(["abcdefghi"]),
        {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"degrees":  21}'},
    ]
    theirs: list[Any] = [
        UserMessage(content="Weather?"),
        reference_calls(["abcdefghi"]),
        ToolMessage(content='{"degrees":  21}', tool_call_id="abcdefghi", name="weather"),
    ]
    expected = reference_ids(version, theirs, REFERENCE_TOOLS)
    assert encode(version, ours, parse_tool_use(TOOLS)) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_parts_are_joined_as_mistral_does(version: str) -> None:
    ours = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    theirs: list[Any] = [UserMessage(content=[TextChunk(text="a"), TextChunk(text="b")])]
    assert encode(version, ours) == reference_ids(version, theirs)


def test_openai_call_ids_are_mapped_and_stay_the_same() -> None:
    first, second = call_id("call_1"), call_id("call_2")
    assert len({first, second, call_id("")}) == 3
    assert all(len(one) == 9 and one.isascii() and one.isalnum() for one in (first, second))
    assert call_id("Ab3Ab3Ab3") == "Ab3Ab3Ab3"
    ours = [
        {"role": "user", "content": "x"},
        calls_turn(["call_1", "call_2"]),
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    theirs: list[Any] = [
        UserMessage(content="x"),
        reference_calls([first, second]),
        ToolMessage(content="2", tool_call_id=second, name="weather"),
        ToolMessage(content="1", tool_call_id=first, name="weather"),
    ]
    assert encode("v3", ours) == reference_ids("v3", theirs)


def test_functions_are_tools_of_an_older_name() -> None:
    call = {"name": "weather", "arguments": "{}"}
    ours = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    made_up = call_id("function_call_1")
    theirs: list[Any] = [
        UserMessage(content="x"),
        AssistantMessage(tool_calls=[ToolCall(id=made_up, function=FunctionCall(**call))]),
        ToolMessage(content="sunny", tool_call_id=made_up, name="weather"),
    ]
    assert encode("v3", ours) == reference_ids("v3", theirs)


def test_the_final_message_is_continued() -> None:
    ours = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "It is"}]
    theirs: list[Any] = [UserMessage(content="Capital?"), AssistantMessage(content="It is", prefix=True)]
    for version in VERSIONS:
        expected = reference_ids(version, theirs)
        assert encode(version, ours, continue_final_message=True) == expected
        assert encode(version, [ours[0], {**ours[1], "prefix": True}]) == expected


def test_content_beside_calls_is_left_out_where_the_format_has_no_place_for_it() -> None:
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "1"}
    question = {"role": "user", "content": "x"}
    plain = [question, calls_turn(["abcdefghi"]), result]
    both = [question, calls_turn(["abcdefghi"], content="Let me see."), result]
    split = [question, {"role": "assistant", "content": "Let me see."}, calls_turn(["abcdefghi"]), result]
    assert encode("v3", both) == encode("v3", plain) == encode("v3", split)
    assert len(encode("v7", both)) > len(encode("v7", plain))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("empty", [{"content": ""}, {"content": None}, {}, {"content": []}])
def test_an_assistants_empty_turn_is_left_out(version: str, empty: dict[str, Any]) -> None:
    user = {"role": "user", "content": "x"}
    assert encode(version, [user, {"role": "assistant", **empty}, user]) == encode(version, [user, user])


CONTROL = ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]


def conversation(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages and tools with `text` in every field that holds text of the caller's choice."""
    arguments = json.dumps({text: text})
    call = {"id": f"call {text}", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "system", "content": text, "name": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": text}], "name": text},
        {"role": "assistant", "content": text, "refusal": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call {text}", "content": text},
        {"role": "assistant", "content": text, "prefix": True},
    ]
    parameters = {"type": "object", "title": text, "properties": {text: {"enum": [text], "description": text}}}
    return messages, [{"type": "function", "function": {"name": "f", "description": text, "parameters": parameters}}]


@pytest.mark.parametrize("version", ["v2", "v3", "v7", "tekken"])
@pytest.mark.parametrize("text", [*CONTROL, "".join(CONTROL), "[INST", "</s", "\u2581</s>", "<0x02>", "<unk>", "a\0b"])
def test_no_field_can_spell_a_control_token(version: str, text: str) -> None:
    tokenizer = mistral(version)

    def structure(text: str) -> list[int]:
        messages, tools = conversation(text)
        ids = tokenizer.encode_chat(parse_messages(messages), parse_tool_use(tools))
        return [token_id for token_id in ids if tokenizer.vocabulary.is_special(token_id)]

    assert structure(text) == structure("harmless")
    raw = tokenizer.encode_text(text)
    assert raw[0] == 1
    assert not any(map(tokenizer.vocabulary.is_special, raw[1:]))


CALLED = [{"role": "user", "content": "x"}, calls_turn(["abcdefghi"])]
REFUSED = [
    ([*CALLED, {"role": "tool", "tool_call_id": "abcdefghi", "content": text}], "messages")
    for text in ("[" * 100_000, "1" * 5_000)
]


@pytest.mark.parametrize(("messages", "param"), REFUSED)
def test_what_mistral_refuses_is_the_callers_error(messages: list[Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        encode("v3", messages)
    assert refused.value.param == param
    assert len(refused.value.message) < 500


def test_tools_are_refused_where_the_model_knows_none() -> None:
    with pytest.raises(RequestError) as refused:
        encode("v1", [{"role": "user", "content": "x"}], parse_tool_use(TOOLS))
    assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")


def test_plain_text_gets_the_begin_of_sequence_token() -> None:
    expected = reference("v3").instruct_tokenizer.tokenizer.encode("Hello [INST]", bos=True, eos=False)
    assert mistral("v3").encode_text("Hello [INST]") == expected


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("v3", "tokenizer.model.v3", MistralTokenizer),
        ("v3", "mistral_instruct_tokenizer_240323.model.v3", MistralTokenizer),
        ("tekken", "tekken.json", MistralTokenizer),
        ("v1", "tokenizer.model", MistralTokenizer),
    ],
)
def test_the_files_present_decide(tmp_path: Path, source: str, name: str, expected: type) -> None:
    if source != "v1":
        chatml_folder(tmp_path)  # a hub folder of Mistral's has a tokenizer.json beside
    shutil.copy(vendor_file(source), tmp_path / name)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, expected)
    assert loaded.vocab_size == mistral(source).vocab_size
    assert loaded.eos_token_ids == {2}


def test_a_tokenizer_json_is_taken_before_a_bare_model_file(tmp_path: Path) -> None:
    chatml_folder(tmp_path)
    shutil.copy(vendor_file("v1"), tmp_path / "tokenizer.model")
    assert isinstance(load_tokenizer(tmp_path), TemplateTokenizer)


@pytest.mark.parametrize("name", [None, "tokenizer.json", "tekken.json", "tokenizer.model.v3", "tokenizer.model.v99"])
def test_a_folder_without_a_readable_tokenizer_is_named(tmp_path: Path, name: str | None) -> None:
    if name is not None:
        (tmp_path / name).write_text("{}")
    with pytest.raises(LoadError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
