"""What other people's programs send, replayed against the adapter and real Trusses with both kinds of tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.assemble import Image
from scripts.process import free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss
from tests.clients.bodies import Sent, all_sent
from tests.e2e.front import Front
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service

SENT = list(all_sent())
REFUSED = [sent for sent in SENT if sent.refused is not None]
LENIENT = {"unknown_fields": "drop", "max_stop_strings": 16, "max_tokens_over_context": "clamp"}
MODELS = pytest.mark.parametrize("model", ["tiny", "smollm2"])


def named(requests: list[Sent]) -> Any:
    return pytest.mark.parametrize("sent", requests, ids=[sent.name for sent in requests])


@pytest.fixture(scope="module")
def lenient(
    ports: dict[str, int], tiny: Service, smollm2: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An adapter with the settings for clients that cannot be changed."""
    port = free_port()
    models = {name: {"url": truss_url(ports[name]), "dialect": "predict", **LENIENT} for name in ("tiny", "smollm2")}
    with start_adapter({"models": models}, port, tmp_path_factory.mktemp("lenient")) as process:
        wait_adapter(process, port)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def lenient_truss(image: Image, tiny_mistral: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of a Truss, whose settings come out of the environment."""
    port = free_port()
    variables = {f"TRUSS_MODEL_SERVING_{name.upper()}": str(value) for name, value in LENIENT.items()}
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(tiny_mistral), **variables}
    with start_truss(image, port, tmp_path_factory.mktemp("lenient-truss"), environment=environment) as process:
        wait_truss(process, port, LOAD_SECONDS)
        yield f"http://127.0.0.1:{port}"


def post(url: str, sent: Sent, model: str) -> httpx.Response:
    return httpx.post(url + sent.path, json=sent.body(model), headers=sent.headers, timeout=100)


def check(sent: Sent, response: httpx.Response) -> None:
    """A whole answer, or a stream that ends as its endpoint's streams do, without an error in it."""
    assert response.status_code == 200, response.text
    if not sent.given.get("stream"):
        assert response.json()["usage"]
        return
    events = [part.split("data: ", 1)[1] for part in response.text.split("\n\n") if "data: " in part]
    if sent.path == "/v1/responses":
        assert json.loads(events[-1])["type"] in ("response.completed", "response.incomplete")
        return
    *chunks, done = events
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert not any("error" in chunk for chunk in parsed)
    assert [choice["finish_reason"] for chunk in parsed for choice in chunk["choices"] if choice["finish_reason"]]


@MODELS
@named([sent for sent in SENT if sent.refused is None])
def test_is_answered(front: Front, sent: Sent, model: str) -> None:
    check(sent, post(front.url(model), sent, model))


@MODELS
@named(REFUSED)
def test_is_refused_by_name(front: Front, sent: Sent, model: str) -> None:
    response = post(front.url(model), sent, model)
    assert response.status_code == 400
    assert sent.refused is not None and sent.refused in response.json()["error"]["message"]


@MODELS
@named(REFUSED)
def test_is_answered_where_the_settings_allow_it(lenient: str, sent: Sent, model: str) -> None:
    assert sent.allowed_by in LENIENT
    check(sent, post(lenient, sent, model))


@named(REFUSED)
def test_is_answered_by_a_truss_whose_settings_allow_it(lenient_truss: str, sent: Sent) -> None:
    check(sent, post(lenient_truss, sent, "tiny"))
