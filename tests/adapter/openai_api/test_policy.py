"""A model's defaults, caps and unknown-field policy: every endpoint obeys them."""

from typing import Any

import pytest

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.openai_api.policy import Policy, default_fields
from tests.adapter.harness import running_bridge, settings_for
from tests.adapter.stub import Stub

MESSAGES = [{"role": "user", "content": "Hi"}]
MINIMAL = {
    "/chat/completions": {"messages": MESSAGES},
    "/completions": {"prompt": "Hi"},
    "/responses": {"input": "Hi"},
}
LIMITS = [
    ("/chat/completions", "max_tokens"),
    ("/chat/completions", "max_completion_tokens"),
    ("/chat/completions", "max_new_tokens"),
    ("/completions", "max_tokens"),
    ("/completions", "max_new_tokens"),
    ("/responses", "max_output_tokens"),
]


def bodies(path: str, policy: Policy, **fields: Any) -> list[dict[str, Any]]:
    return OPERATIONS[path].plan({**MINIMAL[path], **fields}, policy).job.bodies


def test_every_operation_has_cases() -> None:
    assert set(MINIMAL) == {path for path, _ in LIMITS} == set(OPERATIONS)


@pytest.mark.parametrize(("path", "limit"), LIMITS)
def test_a_limit_above_the_cap_is_refused_by_the_name_it_was_given(path: str, limit: str) -> None:
    policy = Policy(caps={"max_tokens": 100})
    assert bodies(path, policy, **{limit: 100})[0]["max_tokens"] == 100
    with pytest.raises(InvalidRequest) as refused:
        bodies(path, policy, **{limit: 5000})
    assert (refused.value.message, refused.value.param, refused.value.code) == (
        f"{limit} is too large: 5000. This model supports at most 100, whereas you provided 5000.",
        limit,
        "integer_above_max_value",
    )


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_default_is_used_where_a_request_names_no_limit(path: str) -> None:
    policy = Policy(defaults=default_fields({"max_completion_tokens": 50, "stop": "END"}), caps={"max_tokens": 100})
    (body,) = bodies(path, policy)
    assert (body["max_tokens"], body["stop"]) == (50, ["END"])
    limit = next(name for operation, name in LIMITS if operation == path)
    assert bodies(path, policy, **{limit: 20})[0]["max_tokens"] == 20
    assert bodies(path, policy, **{limit: None})[0]["max_tokens"] == 50


@pytest.mark.parametrize(("path", "expected"), [("/chat/completions", 12), ("/completions", 12), ("/responses", 12)])
def test_a_cap_bounds_a_request_that_names_no_limit(path: str, expected: int) -> None:
    assert bodies(path, Policy(caps={"max_tokens": 12}))[0]["max_tokens"] == expected


def test_completions_have_a_default_of_their_own_below_the_cap() -> None:
    assert bodies("/completions", Policy())[0]["max_tokens"] == 16
    assert bodies("/completions", Policy(caps={"max_tokens": 100}))[0]["max_tokens"] == 16
    assert "max_tokens" not in bodies("/chat/completions", Policy())[0]


def test_each_prompt_of_a_request_gets_the_defaults() -> None:
    made = bodies("/completions", Policy(defaults={"temperature": 0.5}), prompt=["a", "b"])
    assert made == [{"prompt": prompt, "temperature": 0.5, "max_tokens": 16} for prompt in "ab"]


def test_the_choices_that_best_of_makes_are_capped() -> None:
    with pytest.raises(InvalidRequest) as refused:
        bodies("/completions", Policy(caps={"n": 2}), best_of=3)
    assert refused.value.param == "best_of"
    with pytest.raises(InvalidRequest) as refused:
        bodies("/chat/completions", Policy(caps={"n": 2}), n=3)
    assert refused.value.param == "n"


def test_a_default_of_parallel_tool_calls_needs_tools() -> None:
    policy = Policy(defaults={"parallel_tool_calls": False})
    assert "parallel_tool_calls" not in bodies("/chat/completions", policy)[0]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert bodies("/chat/completions", policy, tools=tools)[0]["parallel_tool_calls"] is False


NESTED = [
    (
        "/chat/completions",
        {
            "messages": [
                {"role": "user", "id": "a", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]},
                {"role": "assistant", "content": "Hello", "reasoning_details": []},
                {"role": "user", "id": "b", "content": "Bye"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "title": "F"}, "cache_control": {}}],
            "guided_json": {},
        },
        (
            "messages[].id",
            "messages[].content[].cache_control",
            "messages[].reasoning_details",
            "tools[].function.title",
            "tools[].cache_control",
            "guided_json",
        ),
    ),
    (
        "/responses",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi", "cache_control": {}}]}],
            "tools": [{"type": "function", "name": "f", "title": "F"}],
            "text": {"format": {"type": "text", "colour": "red"}},
        },
        ("input[].content[].cache_control", "tools[].title", "text.format.colour"),
    ),
    ("/completions", {"prompt": "Hi", "stream": True, "stream_options": {"chunks": 1}}, ("stream_options.chunks",)),
]


@pytest.mark.parametrize(("path", "body", "names"), NESTED)
async def test_unknown_fields_at_any_depth_can_be_dropped(
    stub: Stub, path: str, body: dict[str, Any], names: tuple[str, ...]
) -> None:
    async with running_bridge(settings_for(stub.url, model={"unknown_fields": "drop"})) as bridge:
        answered = await bridge.post(f"/v1{path}", {"model": "m", **body})
        metrics = bridge.state.observer.metrics.text().decode()
    assert answered.status == 200
    assert answered.headers["x-bridge-dropped-fields"] == ",".join(names)
    assert f'bridge_dropped_fields_total{{model="m"}} {len(names)}.0' in metrics
    for name in ("cache_control", "reasoning_details", "title", "colour", "chunks", '"id"'):
        assert name not in stub.requests[-1].body.decode()


@pytest.mark.parametrize(("path", "body", "names"), NESTED)
def test_unknown_fields_are_refused_by_their_path(path: str, body: dict[str, Any], names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        OPERATIONS[path].plan(body)
    assert refused.value.code == "unknown_parameter"


@pytest.mark.parametrize("path", OPERATIONS)
async def test_the_truss_is_asked_to_lower_a_limit_over_its_context(stub: Stub, path: str) -> None:
    limit = next(name for operation, name in LIMITS if operation == path)
    model = {"max_tokens_over_context": "clamp", "dialect": "predict"}
    for settings, expected in ((model, "clamp"), ({}, None)):
        async with running_bridge(settings_for(stub.url, model=settings)) as bridge:
            assert (await bridge.post(f"/v1{path}", {"model": "m", **MINIMAL[path], limit: 32000})).status == 200
        assert (stub.last["max_tokens"], stub.last.get("max_tokens_over_context")) == (32000, expected)


def test_limits_of_the_settings_are_lowered_too_and_no_limit_needs_none() -> None:
    for policy in (
        Policy(defaults={"max_tokens": 9}, clamp_to_context=True),
        Policy({}, {"max_tokens": 9}, False, 4, True),
    ):
        assert bodies("/chat/completions", policy)[0]["max_tokens_over_context"] == "clamp"
    assert bodies("/chat/completions", Policy(clamp_to_context=True)) == [{"messages": MESSAGES}]


async def test_no_endpoint_escapes_a_running_model_s_settings(stub: Stub) -> None:
    model = {"defaults": {"max_tokens": 50}, "caps": {"max_tokens": 100}}
    async with running_bridge(settings_for(stub.url, model=model)) as bridge:
        for path, body in MINIMAL.items():
            assert (await bridge.post(f"/v1{path}", {"model": "m", **body})).status == 200
            assert stub.last["max_tokens"] == 50
        refused = await bridge.post("/v1/responses", {"model": "m", "input": "Hi", "max_output_tokens": 5000})
    assert (refused.status, refused.json["error"]["param"]) == (400, "max_output_tokens")
