import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truss_model.engine.sampling_params import SamplingParams
from truss_model.errors import RequestError
from truss_model.request.messages import Message
from truss_model.request.predict_request import FIELDS, PredictRequest, RequestLimits, parse_request
from truss_model.request.response_format import JsonFormat
from truss_model.request.tools import FunctionTool, ToolUse

LIMITS = RequestLimits(vocab_size=1000, maximum_max_tokens=500)
HELLO = [{"role": "user", "content": "Hello"}]
TURNS = [Message("user", ("Hello",))]


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def schema_format(schema: object, strict: object = True) -> dict[str, Any]:
    named = {"name": "x", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def parse(**fields: Any) -> PredictRequest:
    return parse_request({"messages": HELLO, **fields}, LIMITS)


def test_the_least_request() -> None:
    assert parse() == PredictRequest(messages=TURNS, prompt=None, sampling=SamplingParams())


def test_every_field() -> None:
    tools = [tool("a"), tool("b")]
    shown = [FunctionTool(name, parameters={"type": "object"}, path=f"tools[{i}]") for i, name in enumerate("ab")]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    request = parse(
        max_tokens=9,
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.25,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.5,
        min_tokens=3,
        ignore_eos=True,
        stop=["a", "b"],
        seed=-5,
        n=128,
        logit_bias={"0": -100, "999": 100},
        logprobs=True,
        top_logprobs=20,
        prompt_logprobs=20,
        response_format=schema,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        stream=True,
    )
    assert request == PredictRequest(
        messages=TURNS,
        prompt=None,
        sampling=SamplingParams(
            temperature=0.0,
            top_p=0.5,
            top_k=7,
            min_p=0.25,
            presence_penalty=-2.0,
            frequency_penalty=2.0,
            repetition_penalty=1.5,
            logit_bias={0: -100.0, 999: 100.0},
            seed=-5,
            min_tokens=3,
            ignore_eos=True,
            top_logprobs=20,
            prompt_logprobs=20,
        ),
        max_tokens=9,
        n=128,
        stop=("a", "b"),
        stream=True,
        tools=ToolUse(shown, shown, "required", parallel=False),
        response_format=JsonFormat({}, strict=False),
    )


def test_null_is_absent() -> None:
    assert parse(**dict.fromkeys(FIELDS - {"messages"})) == parse()


def test_prompts_of_text_and_of_token_ids() -> None:
    assert parse_request({"prompt": ""}, LIMITS).prompt == ""
    assert parse_request({"prompt": [1, 999]}, LIMITS).prompt == (1, 999)


def test_other_names_and_forms() -> None:
    assert parse(max_new_tokens=4).max_tokens == 4
    assert parse(max_tokens=4, max_new_tokens=4).max_tokens == 4
    assert parse(max_tokens_over_context="clamp").max_tokens_over_context == "clamp"
    assert parse(stop="x").stop == ("x",)
    assert parse(stop=[]).stop == ()
    assert parse(max_tokens=0, prompt_logprobs=0).max_tokens == 0
    assert parse(top_k=-1).sampling.top_k == 0
    assert parse(top_logprobs=0) == parse(top_logprobs=0, logprobs=False) == parse()
    assert parse(thinking=None) == parse(messages=[HELLO[0] | {"tool_calls": None, "thinking": None}]) == parse()
    assert parse(messages=[*HELLO, {"role": "assistant", "content": "a", "tool_calls": []}, *HELLO]).messages
    assert parse(logprobs=True).sampling.top_logprobs == 0
    assert parse(logprobs=False).sampling.top_logprobs is None
    assert parse(response_format={"type": "text"}).response_format is None
    assert parse(tool_choice="none").tools == ToolUse()


def test_an_answer_goes_on_with_the_callers_text() -> None:
    prefix = [*HELLO, {"role": "assistant", "content": "Hi", "prefix": True}]
    assert parse_request({"prompt": "Hi"}, LIMITS).continues_text
    assert parse_request({"messages": prefix}, LIMITS).continues_text
    assert parse_request(
        {"messages": [*HELLO, {**prefix[1], "prefix": None}], "continue_final_message": True}, LIMITS
    ).continues_text
    assert not parse().continues_text


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "x"}, "model", "unknown_parameter"),
    ({"max_completion_tokens": 4}, "max_completion_tokens", "unknown_parameter"),
    ({"messages": "Hello"}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": ["Hello"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
    ({"prompt": "x"}, "messages", "invalid_value"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": None, "prompt": 5}, "prompt", "invalid_type"),
    ({"messages": None, "prompt": []}, "prompt", "empty_array"),
    ({"messages": None, "prompt": "\ud800"}, "prompt", "invalid_value"),
    ({"messages": None, "prompt": [1, 1000]}, "prompt[1]", "integer_above_max_value"),
    ({"messages": None, "prompt": [-1]}, "prompt[0]", "integer_below_min_value"),
    ({"messages": None, "prompt": [True]}, "prompt[0]", "invalid_type"),
    ({"messages": None, "prompt": "x", "tools": [tool("a")]}, "tools", "invalid_value"),
    ({"messages": None, "prompt": "x", "continue_final_message": True}, "continue_final_message", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": -1, "prompt_logprobs": 0}, "max_tokens", "integer_below_min_value"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "integer_above_max_value"),
    ({"prompt_logprobs": True}, "prompt_logprobs", "invalid_type"),
    ({"max_tokens": 501}, "max_tokens", "integer_above_max_value"),
    ({"max_tokens": 5.5}, "max_tokens", "invalid_type"),
    ({"max_tokens": "x"}, "max_tokens", "invalid_type"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_tokens": 4, "max_new_tokens": 5}, "max_new_tokens", "invalid_value"),
    ({"max_tokens": 4, "max_new_tokens": 4.0}, "max_new_tokens", "invalid_type"),
    ({"max_tokens_over_context": "drop"}, "max_tokens_over_context", "invalid_value"),
    ({"max_tokens_over_context": True}, "max_tokens_over_context", "invalid_type"),
    ({"max_new_tokens": 0}, "max_new_tokens", "integer_below_min_value"),
    ({"max_tokens": 4, "min_tokens": 5}, "min_tokens", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": -1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": False}, "temperature", "invalid_type"),
    ({"temperature": float("nan")}, "temperature", "invalid_value"),
    ({"temperature": float("inf")}, "temperature", "decimal_above_max_value"),
    ({"temperature": 10**5000}, "temperature", "decimal_above_max_value"),
    ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
    ({"top_k": -2}, "top_k", "integer_below_min_value"),
    ({"min_p": -0.5}, "min_p", "decimal_below_min_value"),
    ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ({"frequency_penalty": -3}, "frequency_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value"),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"seed": 1.0}, "seed", "invalid_type"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"ignore_eos": 1}, "ignore_eos", "invalid_type"),
    ({"stream": "true"}, "stream", "invalid_type"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
    ({"stop": ["a", 1]}, "stop[1]", "invalid_type"),
    ({"stop": ["a"] * 65}, "stop", "array_above_max_length"),
    ({"logit_bias": []}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"01": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1000": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value"),
    ({"logprobs": 5}, "logprobs", "invalid_type"),
    ({"top_logprobs": 5}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"response_format": "json"}, "response_format", "invalid_type"),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": {"type": "json_schema", "json_schema": 1}}, "response_format.json_schema", "invalid_type"),
    (schema_format(None), "response_format.json_schema.schema", "invalid_type"),
    (schema_format({}, strict="yes"), "response_format.json_schema.strict", "invalid_type"),
    (schema_format({"enum": list(range(20_001))}), "response_format", "invalid_schema"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": []}, "tools", "empty_array"),
    ({"tools": ["a"]}, "tools[0]", "invalid_type"),
    ({"tools": [tool(f"t{i}") for i in range(129)]}, "tools", "array_above_max_length"),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
    ({"tools": [tool("a")], "parallel_tool_calls": "x"}, "parallel_tool_calls", "invalid_type"),
    ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name", "invalid_value"),
    ({"tools": [tool("a")], "tool_choice": "any"}, "tool_choice", "invalid_value"),
    ({"tools": [tool("a")], "tool_choice": named("b")}, "tool_choice", "invalid_value"),
]


@pytest.mark.parametrize(("fields", "param", "code"), WRONG, ids=[f"{param}-{code}" for _, param, code in WRONG])
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as error:
        parse(**fields)
    assert (error.value.param, error.value.code) == (param, code)
    assert param in error.value.message
    assert len(error.value.message) < 300


def test_a_message_is_openais_own() -> None:
    with pytest.raises(RequestError) as error:
        parse(temperature=9)
    assert error.value.message == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 9 instead."
    )


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_that_is_no_object(body: Any) -> None:
    with pytest.raises(RequestError) as error:
        parse_request(body, LIMITS)
    assert (error.value.param, error.value.code) == ("body", "invalid_type")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), json_values, max_size=4))
def test_any_json_is_a_request_or_a_refusal_that_names_a_field(body: dict[str, Any]) -> None:
    body = json.loads(json.dumps(body))
    try:
        request = parse_request(body, LIMITS)
    except RequestError as error:
        assert error.param is not None and error.param.split("[")[0].split(".")[0] in FIELDS
    else:
        assert (request.messages is None) != (request.prompt is None)
