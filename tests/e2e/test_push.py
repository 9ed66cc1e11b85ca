"""`truss push` of this repository to Baseten's API on the loopback, and everything the platform then does with it."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from scripts.assemble import assemble
from scripts.process import free_port
from scripts.serve import REPOSITORY
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss
from tests.e2e.baseten import API_KEY, DEPLOYMENT_ID, MODEL_ID, Baseten, Refusal
from tests.e2e.clean_environment import MissingRequirement, closure, make_clean_environment, read_requirements
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service

TRUSS = Path(sys.executable).with_name("truss")
TARGETS = {
    "production": "production",
    "staging": "environments/staging",
    "development": "development",
    "pinned": f"deployment/{DEPLOYMENT_ID}",
}
CONVERSATION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Who won the world series in 2020?"},
    {"role": "assistant", "content": "The Los Angeles Dodgers won the World Series in 2020."},
    {"role": "user", "content": "Where was it played?"},
]
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Where was it played?"}]


@pytest.fixture(scope="module")
def baseten() -> Iterator[Baseten]:
    with Baseten() as platform:
        yield platform


def truss(platform: Baseten, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HOME": str(home),
        "BASETEN_TRUSS_AUTH_REMOTE_URL": platform.url,
        "BASETEN_TRUSS_AUTH_API_KEY": API_KEY,
        "TRUSS_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }
    command = [str(TRUSS), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def archive(baseten: Baseten, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a plain `truss push` uploads."""
    done = truss(baseten, tmp_path_factory.mktemp("home"), "push", "--non-interactive", REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path_factory.mktemp("archive")
    baseten.extract(folder)
    return folder


@pytest.fixture(scope="module")
def served(
    baseten: Baseten, archive: Path, tiny_mistral: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The archive as its image would run: only what it holds, only what it requires, its own interpreter."""
    run_dir = tmp_path_factory.mktemp("served")
    image = assemble(archive, run_dir / "image")
    python = make_clean_environment(image.requirements, run_dir / "venv")
    environment = {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(tiny_mistral), "PYTHONNOUSERSITE": "1"}
    port = free_port()
    with start_truss(image, port, run_dir, environment=environment, python=python) as process:
        wait_truss(process, port, LOAD_SECONDS)
        baseten.truss = truss_url(port)
        yield Service(process, port)


@pytest.fixture(scope="module")
def adapter(baseten: Baseten, served: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An adapter in front of the hosted endpoints, in every form of their URLs."""
    with hosted_adapter(baseten, tmp_path_factory.mktemp("adapter")) as service:
        yield service


@contextmanager
def hosted_adapter(baseten: Baseten, folder: Path, **server: float) -> Iterator[Service]:
    urls = {name: baseten.endpoint(target) for name, target in TARGETS.items()}
    urls["openai"] = openai_url(baseten)
    urls["regional"] = f"{baseten.url}/model-{MODEL_ID}-production/predict"
    urls |= {name: baseten.endpoint(name) for name in ("asleep", *REFUSALS)}
    models = {
        name: {"url": url, "key_env": "BASETEN_API_KEY", "retries": {"attempts": 0}} for name, url in urls.items()
    }
    settings = {
        "models": models,
        "path_form": {"url": f"{baseten.url}/model-{{model_id}}/production/predict", "retries": {"attempts": 0}},
        "server": server,
    }
    port = free_port()
    environment = {"BASETEN_API_KEY": API_KEY}
    with start_adapter(settings, port, folder, environment=environment) as process:
        wait_adapter(process, port)
        yield Service(process, port)


def openai_url(baseten: Baseten) -> str:
    """The base URL that Baseten documents for OpenAI's clients."""
    return f"{baseten.url}/model-{MODEL_ID}/environments/production/sync/v1"


REFUSALS = {
    "busy": Refusal(429, b'{"error": "Too many requests", "error_code": "rate_limited"}', {"Retry-After": "7"}),
    "crashed": Refusal(502, b"<html><body>Bad Gateway</body></html>", {"Content-Type": "text/html"}),
    "draining": Refusal(503, b'{"error": "Model is not ready", "error_code": "model_not_ready"}'),
    "slow": Refusal(504, b'{"error": "Timed out", "error_code": "timeout"}'),
    "unpaid": Refusal(402, b'{"error": "Payment required", "error_code": "client_error"}'),
}


def test_the_archive_holds_config_model_and_translation_and_nothing_else(archive: Path) -> None:
    held = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    folders = [REPOSITORY / "truss_model", REPOSITORY / "bridge_adapter/openai_api"]
    sources = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    expected = {path.relative_to(REPOSITORY).as_posix() for path in sources if "__pycache__" not in path.parts}
    expected |= {f"bridge_adapter/{name}.py" for name in ("__init__", "contract", "errors")}
    assert held == expected | {"config.yaml"}
    assert {Path(name).suffix or name for name in held} <= {".py", ".yaml", ".c", ".h", ".typed"}


def test_the_config_arrives_as_written(baseten: Baseten, archive: Path) -> None:
    assert (archive / "config.yaml").read_bytes() == (REPOSITORY / "config.yaml").read_bytes()
    assert base64.b64decode(baseten.pushed[0]["rawConfig"]) == (REPOSITORY / "config.yaml").read_bytes()


def test_a_key_that_truss_does_not_know_fails_the_push(baseten: Baseten, tmp_path: Path) -> None:
    folder = tmp_path / "truss"
    shutil.copytree(REPOSITORY / "truss_model", folder / "truss_model", ignore=shutil.ignore_patterns("__pycache__"))
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "predict_concurency": 8}))
    done = truss(baseten, tmp_path, "push", "--non-interactive", folder)
    assert done.returncode != 0
    assert "predict_concurency" in done.stdout + done.stderr


def test_a_requirement_that_was_not_tested_here_is_found(archive: Path, tmp_path: Path) -> None:
    asked = tmp_path / "requirements.txt"
    asked.write_text("torch==2.13.0\na-package-nobody-has==1.0\n")
    with pytest.raises(MissingRequirement, match="a-package-nobody-has"):
        closure(read_requirements(asked))
    asked.write_text("transformers==4.0.0\n")
    with pytest.raises(MissingRequirement, match=r"4\.0\.0"):
        closure(read_requirements(asked))


def test_the_served_environment_has_no_dev_packages(served: Service) -> None:
    seen = subprocess.run(
        [*_interpreter(served), "-I", "-c", "import pytest"], capture_output=True, text=True, check=False
    )
    assert "No module named 'pytest'" in seen.stderr


def _interpreter(service: Service) -> list[str]:
    command = Path(f"/proc/{service.process.pid}/cmdline").read_bytes().split(b"\0")
    return [command[0].decode()]


@pytest.mark.parametrize("stream", [False, True])
def test_truss_predict(baseten: Baseten, served: Service, tmp_path: Path, stream: bool) -> None:
    body = {"messages": QUESTION, "max_tokens": 4, "temperature": 0, "stream": stream}
    done = truss(baseten, tmp_path, "predict", "--model-deployment", DEPLOYMENT_ID, "-d", json.dumps(body))
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if stream:
        assert [event["event"] for event in (printed[0], printed[-1])] == ["start", "done"]
        assert 0 < printed[-1]["usage"]["completion_tokens"] <= 4
    else:
        assert printed[0]["choices"][0]["finish_reason"] in ("length", "stop")


def test_the_image_answers_openais_routes_itself(served: Service) -> None:
    """The snippet of Baseten's guide: only the address differs."""
    with OpenAI(api_key="none", base_url=f"{served.url}/v1", max_retries=0) as client:
        body: dict[str, Any] = {"model": "mistral-7b", "messages": CONVERSATION, "max_tokens": 4, "temperature": 0}
        answer = client.chat.completions.create(**body)
        chunks = client.chat.completions.create(**body, stream=True)
        streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert answer.choices[0].message.content == streamed != ""
    assert answer.model == "mistral-7b"
    assert answer.usage is not None and answer.usage.prompt_tokens > 0


def test_openais_client_at_baseten_itself(baseten: Baseten, served: Service) -> None:
    with OpenAI(api_key=API_KEY, base_url=openai_url(baseten), max_retries=0) as client:
        plain = client.chat.completions.create(model=MODEL_ID, messages=QUESTION, max_tokens=4, temperature=0)
        chunks = client.chat.completions.create(
            model=MODEL_ID, messages=QUESTION, max_tokens=4, temperature=0, stream=True
        )
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert plain.model == MODEL_ID and plain.choices[0].message.content
    assert baseten.calls[-1].target == "environments/production"


@pytest.mark.parametrize("name", [*TARGETS, "regional", "openai"])
def test_hosted_endpoints(baseten: Baseten, adapter: Service, name: str) -> None:
    with OpenAI(api_key="none", base_url=f"{adapter.url}/v1", max_retries=0) as client:
        plain = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=4, temperature=0)
        chunks = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=4, temperature=0, stream=True)
        streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == plain.choices[0].message.content
    assert plain.model == name
    assert plain.usage is not None and plain.usage.prompt_tokens > 0
    call = baseten.calls[-1]
    assert call.target == {**TARGETS, "openai": "environments/production"}.get(name, "")
    assert call.authorization == f"Api-Key {API_KEY}"
    assert "application/json" not in call.accept


def test_the_bridges_own_form_passes_the_callers_key_on(baseten: Baseten, adapter: Service) -> None:
    with OpenAI(api_key=API_KEY, base_url=f"{adapter.url}/{MODEL_ID}/v1", max_retries=0) as client:
        answer = client.chat.completions.create(model="mistral-7b", messages=QUESTION, max_tokens=4)
    assert answer.model == MODEL_ID
    assert baseten.calls[-1].authorization == f"Api-Key {API_KEY}"


def test_a_wrong_key_and_a_wrong_id_are_the_callers_errors(adapter: Service) -> None:
    with OpenAI(api_key="wrong", base_url=f"{adapter.url}/{MODEL_ID}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="mistral-7b", messages=QUESTION)
    assert refused.value.code == "invalid_api_key"
    with OpenAI(api_key=API_KEY, base_url=f"{adapter.url}/zzzz9999/v1", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="mistral-7b", messages=QUESTION)
    assert unknown.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_platform_refuses(baseten: Baseten, adapter: Service, name: str, stream: bool) -> None:
    baseten.refusals = REFUSALS
    body = {"model": name, "messages": QUESTION, "stream": stream}
    answer = httpx.post(f"{adapter.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == REFUSALS[name].status
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "<" not in error["message"]
    if name == "busy":
        assert answer.headers["retry-after"] == "7"


def test_a_cold_start_keeps_the_stream_alive(baseten: Baseten, served: Service, tmp_path: Path) -> None:
    """Baseten parks a request until a replica is up; the caller meanwhile sees comments, then the whole answer."""
    baseten.asleep["asleep"] = awake = threading.Event()
    body = {"model": "asleep", "messages": QUESTION, "stream": True, "max_tokens": 4}
    with (
        hosted_adapter(baseten, tmp_path, cold_start_after=0.2, keep_alive=0.2) as adapter,
        httpx.stream("POST", f"{adapter.url}/v1/chat/completions", json=body, timeout=60) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        awake.set()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] in ("length", "stop")


def test_hot_reload_of_the_model_code_keeps_serving(served: Service) -> None:
    body = {"messages": QUESTION, "max_tokens": 4, "temperature": 0}
    before = httpx.post(truss_url(served.port), json=body, timeout=30).json()
    reloaded = httpx.post(f"{served.url}/hot-reload", timeout=60)
    assert reloaded.status_code == 200, reloaded.text
    after = httpx.post(truss_url(served.port), json=body, timeout=30).json()
    assert after["choices"] == before["choices"]
    refused = httpx.post(truss_url(served.port), json={"messages": [], "max_tokens": 4}, timeout=30)
    assert refused.status_code == 400
