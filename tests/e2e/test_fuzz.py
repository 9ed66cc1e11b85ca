"""Bodies of every kind, straight at the Truss: an answer, or a refusal that names something; never a 5xx."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.server import FUZZ_TIMES, Service

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
CONTENT = st.text(max_size=60) | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": st.text(max_size=20)}), max_size=3
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENT}
) | st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "name"]), ANYTHING, max_size=4)
PROPERTY = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"enum": [1, "a", None]},
        {"type": "array", "items": {"type": "boolean"}},
        {},
    ]
)
SCHEMA = st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "array", "string"])},
    optional={
        "properties": st.dictionaries(st.text(max_size=8), PROPERTY, max_size=3),
        "pattern": st.text(max_size=12),
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(-1, 3),
    "top_p": st.floats(-0.5, 1.5),
    "top_k": st.integers(-2, 40),
    "min_p": st.floats(0, 1),
    "n": st.integers(0, 3),
    "stop": st.text(max_size=4) | st.lists(st.text(max_size=4), max_size=5),
    "seed": st.integers(-(2**70), 2**70),
    "presence_penalty": st.floats(-3, 3),
    "repetition_penalty": st.floats(0, 3),
    "logit_bias": st.dictionaries(st.integers(-5, 40_000).map(str), st.floats(-120, 120), max_size=3),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(-1, 22),
    "min_tokens": st.integers(-1, 8),
    "ignore_eos": st.booleans(),
    "stream": st.booleans(),
    "continue_final_message": st.booleans(),
    "response_format": st.fixed_dictionaries(
        {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"name": st.just("s"), "schema": SCHEMA})}
    ),
}
BODY = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=4)},
    optional={name: strategy | ANYTHING for name, strategy in FIELDS.items()},
) | st.fixed_dictionaries(
    {"prompt": st.text(max_size=40) | st.lists(st.integers(-1, 40_000), max_size=8)}, optional=FIELDS
)

ODD = st.sampled_from(["u", None, "\ud800", float("nan"), float("inf"), 2**70])


@pytest.mark.timeout(120 * FUZZ_TIMES)
@settings(max_examples=150 * FUZZ_TIMES, suppress_health_check=list(HealthCheck))
@given(body=BODY | st.dictionaries(st.text(max_size=8), ANYTHING, max_size=4))
def test_every_body_is_answered_or_refused(tiny: Service, body: dict[str, Any]) -> None:
    raw = json.dumps({"max_tokens": 8, **body})
    response = httpx.post(f"{tiny.url}/v1/models/model:predict", content=raw, timeout=60)
    assert response.status_code in (200, 400), (raw, response.text)
    if response.status_code == 400:
        error = response.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error", raw
    elif body.get("stream") is True:
        events = [json.loads(line) for line in response.text.splitlines() if line]
        assert events[-1]["event"] == "done", raw
    else:
        assert all(choice["finish_reason"] for choice in response.json()["choices"]), raw


@pytest.mark.timeout(120 * FUZZ_TIMES)
@settings(max_examples=80 * FUZZ_TIMES, suppress_health_check=list(HealthCheck))
@given(body=BODY, route=st.sampled_from(["chat/completions", "completions", "responses"]), odd=ODD)
def test_openais_routes_answer_or_refuse_every_body(tiny: Service, body: dict[str, Any], route: str, odd: Any) -> None:
    """`odd` is what Python's json reads although JSON does not have it."""
    if route == "responses":
        messages = body.pop("messages", None)
        body = {**body, "input": messages or body.pop("prompt", "Hi"), "max_output_tokens": 8, "metadata": {"a": odd}}
    else:
        body = {"max_tokens": 8, **body, "user": odd}
    raw = json.dumps({"model": "m", **body})
    response = httpx.post(f"{tiny.url}/v1/{route}", content=raw, timeout=60)
    assert response.status_code in (200, 400), (raw, response.text)
    if response.status_code == 400:
        error = response.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error", raw
    elif body.get("stream") is True:
        last = "response.completed", "response.incomplete", "data: [DONE]"
        assert any(name in response.text.rstrip().rpartition("\n\n")[2] for name in last), raw
    else:
        assert response.json()["id"], raw
