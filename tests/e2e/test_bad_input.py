"""Every mistake a caller can make is a 4xx with OpenAI's error object that names the field; the next request works."""

from typing import Any

import httpx
import pytest

from tests.e2e.front import Front
from tests.e2e.server import Service

GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


BODIES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": None}, 400, None),
    ({"model": 7}, 400, None),
    ({"messages": None}, 400, "messages"),
    ({"messages": []}, 400, "messages"),
    ({"messages": "Hi"}, 400, "messages"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, 400, "messages[0].role"),
    ({"messages": [{"content": "Hi"}]}, 400, "messages[0].role"),
    (said(7), 400, "messages[0].content"),
    (said([{"type": "image_url", "image_url": {"url": "data:,"}}]), 400, "messages[0].content[0]"),
    (said([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]), 400, "messages[0].content[0]"),
    (said("word " * 3000), 400, "messages"),
    ({"max_tokens": "2"}, 400, "max_tokens"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 2, "max_completion_tokens": 3}, 400, "max_"),
    ({"temperature": 9}, 400, "temperature"),
    ({"temperature": "warm"}, 400, "temperature"),
    ({"top_p": -0.1}, 400, "top_p"),
    ({"presence_penalty": 3}, 400, "presence_penalty"),
    ({"n": 0}, 400, "n"),
    ({"n": 1.5}, 400, "n"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
    ({"stop": ""}, 400, "stop"),
    ({"seed": "x"}, 400, "seed"),
    ({"logit_bias": {"99999999": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias"),
    ({"top_logprobs": 2}, 400, "top_logprobs"),
    ({"stream": "yes"}, 400, "stream"),
    ({"stream": False, "stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0]"),
    ({"tool_choice": "required"}, 400, "tool_choice"),
    ({"response_format": {"type": "xml"}}, 400, "response_format"),
    ({"no_such_field": 1}, 400, "no_such_field"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, 400, "audio"),
]


def check_error(response: httpx.Response, status: int, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    assert error["code"] is None or isinstance(error["code"], str)
    if param is not None:
        assert (error["param"] or "").startswith(param)


@pytest.fixture(autouse=True)
def still_well(front: Front) -> Any:
    yield
    assert httpx.post(f"{front.url()}/v1/chat/completions", json=GOOD, timeout=60).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "status", "param"), BODIES, ids=lambda value: str(value)[:40])
def test_bad_bodies(front: Front, change: dict[str, Any], status: int, param: str | None, stream: bool) -> None:
    asked = {**GOOD, **({"stream": True} if stream else {}), **change}
    given = {name: value for name, value in asked.items() if value is not None}
    check_error(httpx.post(f"{front.url()}/v1/chat/completions", json=given, timeout=60), status, param)


def test_a_model_that_is_not_in_the_adapters_table(adapter: Service) -> None:
    check_error(httpx.post(f"{adapter.url}/v1/chat/completions", json=GOOD | {"model": "no-such-model"}), 404, "model")


@pytest.mark.parametrize(
    "raw",
    [b"[]", b'"Hi"', b'{"model": NaN}', b'{"model": "\\ud800", "messages": []}', b'{"model": "tiny", "n": 1e999}'],
)
def test_what_only_pythons_json_lets_through(front: Front, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    check_error(httpx.post(f"{front.url()}/v1/chat/completions", content=raw, headers=headers), 400, None)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/v1/models", b"", 404),
        ("POST", "/v1/embeddings", b"{}", 404),
        ("POST", "/v1/messages", b"{}", 404),
    ],
)
def test_what_the_truss_server_answers_itself(
    tiny: Service, method: str, path: str, content: bytes, status: int
) -> None:
    """Before any of the model's code: the README says so, and OpenAI's client makes its own errors of these."""
    answer = httpx.request(method, f"{tiny.url}{path}", content=content)
    assert answer.status_code == status
    assert answer.json().keys() in ({"error"}, {"detail"})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"Hi"', b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000])
def test_what_is_no_json_object(adapter: Service, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    check_error(httpx.post(f"{adapter.url}/v1/chat/completions", content=raw, headers=headers), 400, None)


def test_a_body_above_the_limit(adapter: Service) -> None:
    raw = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"a" * (21 * 2**20) + b'"}]}'
    headers = {"Content-Type": "application/json"}
    check_error(httpx.post(f"{adapter.url}/v1/chat/completions", content=raw, headers=headers, timeout=60), 413, None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/chat/completion", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v1/models/no-such-model", 404),
        ("POST", "/../../etc/passwd", 404),
    ],
)
def test_wrong_methods_and_paths(adapter: Service, method: str, path: str, status: int) -> None:
    check_error(httpx.request(method, f"{adapter.url}{path}"), status, None)
