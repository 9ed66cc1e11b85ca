"""Every field of a chat request has the effect that the README's table names, or is refused, over the whole stack."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI

from tests.e2e.front import Front

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
HOSTILE: dict[str, dict[str, Any]] = {
    "too deep": DEEP,
    "too many properties": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(3000)}},
    "no such type": {"type": "wizard"},
    "a reference to nothing": {"$ref": "#/$defs/missing"},
    "no regular expression": {"type": "string", "pattern": "(a"},
    "one that cannot be met": {"type": "string", "enum": []},
}


def ask(client: OpenAI, **more: Any) -> Any:
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "temperature": 0, **more}
    return client.chat.completions.create(**body)


def text(client: OpenAI, **more: Any) -> str:
    content = ask(client, **more).choices[0].message.content
    assert isinstance(content, str)
    return content


def refused(client: OpenAI, **more: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    return caught.value


HARMLESS: list[dict[str, Any]] = [
    {"user": "u"},
    {"metadata": {"a": "b"}},
    {"store": False},
    {"service_tier": "auto"},
    {"service_tier": "default"},
    {"safety_identifier": "s"},
    {"prompt_cache_key": "k"},
    {"verbosity": "medium"},
    {"reasoning_effort": "none"},
    {"modalities": ["text"]},
    {"response_format": {"type": "text"}},
    {"logprobs": False},
    {"stop": None},
    {"n": 1},
    {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}},
    {"max_tokens": None, "max_completion_tokens": 8},
]


def test_what_is_harmless_changes_nothing(client: OpenAI) -> None:
    expected = text(client)
    for fields in HARMLESS:
        assert text(client, **fields) == expected, fields


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "unsupported_parameter"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "unsupported_parameter"),
    ({"web_search_options": {}}, "unsupported_parameter"),
    ({"prediction": {"type": "content", "content": "x"}}, "unsupported_parameter"),
    ({"extra_body": {"moderation": {"model": "m"}}}, "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "unsupported_value"),
    ({"service_tier": "flex"}, "unsupported_value"),
    ({"verbosity": "low"}, "unsupported_value"),
    ({"reasoning_effort": "high"}, "unsupported_value"),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "unsupported_value"),
]


def test_what_cannot_be_honoured_is_refused(client: OpenAI) -> None:
    for fields, code in UNSUPPORTED:
        error = refused(client, **fields)
        (name,) = fields.get("extra_body", fields)
        assert error.code == code, fields
        assert (error.param or "").startswith(name), fields


def test_sampling_fields_reach_the_model(client: OpenAI) -> None:
    greedy = text(client)
    assert text(client, temperature=2, seed=1) != greedy
    assert text(client, temperature=2, top_p=0.0, seed=1) == greedy
    assert text(client, logit_bias={"1234": 100}) == text(client, logit_bias={"1234": 100.0}) != greedy
    tokens = ask(client, logprobs=True, logit_bias={"1234": 100}, presence_penalty=2, frequency_penalty=2)
    assert len({token.token for token in tokens.choices[0].logprobs.content}) == 1
    repeated = {"1234": 20, "5678": 19}
    alone = ask(client, logprobs=True, logit_bias=repeated).choices[0].logprobs.content
    assert len({token.token for token in alone}) == 1
    for penalty in ("presence_penalty", "frequency_penalty"):  # a penalty of 2 is more than the bias's lead of 1
        taken = ask(client, logprobs=True, logit_bias=repeated, **{penalty: 2}).choices[0].logprobs.content
        assert len({token.token for token in taken}) == 2, penalty


def test_extras_of_hf_and_vllm(client: OpenAI) -> None:
    greedy = text(client)
    assert text(client, temperature=2, seed=1, extra_body={"top_k": 1}) == greedy
    assert text(client, temperature=2, seed=1, extra_body={"min_p": 1.0}) == greedy
    assert len(set(tokens_of(client, max_tokens=30))) < len(tokens_of(client, max_tokens=30))
    unlike = tokens_of(client, max_tokens=30, extra_body={"repetition_penalty": 100})
    assert len(set(unlike)) == len(unlike) > 10
    end = {"2": 100}  # the end of the answer, as its first token
    assert ask(client, logit_bias=end).usage.completion_tokens == 1
    assert ask(client, logit_bias=end, extra_body={"min_tokens": 5}).usage.completion_tokens == 6
    assert ask(client, logit_bias=end, extra_body={"ignore_eos": True}).usage.completion_tokens == 8
    assert ask(client, max_tokens=None, extra_body={"max_new_tokens": 3}).usage.completion_tokens == 3
    continued = [*MESSAGES, {"role": "assistant", "content": "The capital of France is"}]
    going_on = text(client, model="smollm2", messages=continued, extra_body={"continue_final_message": True})
    assert going_on.startswith(" Paris")


def tokens_of(client: OpenAI, **more: Any) -> list[str]:
    return [token.token for token in ask(client, logprobs=True, **more).choices[0].logprobs.content]


def test_stream_options(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True, "include_obfuscation": True}))
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    assert all(chunk.obfuscation for chunk in chunks[1:-2])
    assert all(chunk.usage is None for chunk in ask(client, stream=True))


def test_json_object(client: OpenAI) -> None:
    made = text(
        client,
        model="smollm2",
        response_format={"type": "json_object"},
        max_tokens=100,
        messages=[{"role": "user", "content": 'Answer with this JSON: {"a": 1}'}],
    )
    assert isinstance(json.loads(made), dict)
    cut = ask(client, response_format={"type": "json_object"}, max_tokens=2).choices[0]
    assert cut.finish_reason == "length" and cut.message.content.lstrip().startswith("{")


@pytest.mark.parametrize("strict", [True, False])
def test_json_schema(client: OpenAI, strict: bool) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "ages": {"type": "array", "maxItems": 2, "items": {"type": "integer", "minimum": 0, "maximum": 99}},
        },
        "required": ["name", "ages"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": strict}}
    answer = ask(client, response_format=form, max_tokens=400, temperature=1, seed=2, n=4)
    finished = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert finished
    for choice in finished:
        jsonschema.validate(json.loads(choice.message.content), schema)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_and_named(client: OpenAI, name: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": HOSTILE[name], "strict": True}}
    error = refused(client, response_format=form)
    assert (error.param or "").startswith("response_format")
    tool = {"type": "function", "function": {"name": "f", "parameters": HOSTILE[name], "strict": True}}
    error = refused(client, tools=[tool], tool_choice="required")
    assert (error.param or "").startswith("tools")


def test_a_large_repetition_is_refused_or_harmless(client: OpenAI) -> None:
    schema = {"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    try:
        assert ask(client, response_format=form).choices[0].message.content.strip().startswith('"a')
    except openai.BadRequestError as error:
        assert error.param == "response_format"


def test_a_model_that_nobody_knows(client: OpenAI, front: Front) -> None:
    """The adapter has a table of models; a Truss has one, whatever it is called."""
    if front.name == "truss":
        assert ask(client, model="nobody").model == "nobody"
        return
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="nobody")
    assert missing.value.code == "model_not_found"


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    assert refused(client, messages=[{"role": "user", "content": "word " * 3000}]).code == "context_length_exceeded"
    for fields, param, code in (
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"temperature": 9}, "temperature", "decimal_above_max_value"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"extra_body": {"best_of": 2}}, "best_of", "unknown_parameter"),
    ):
        error = refused(client, **fields)
        assert (error.param, error.code) == (param, code)
