"""Other clients than OpenAI's own, each a program of its own that prints what its client made of the answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients.environment import CLIENTS, client_python
from tests.e2e.server import Service

QUIET = {"LANGSMITH_TRACING": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "true"}  # nobody is called but the adapter
PARIS = "The capital of France is Paris."
VERDICTS = [{"mood": mood, "stars": stars} for mood in ("good", "bad") for stars in (1, 2)]


def ask(name: str, python: Path | str, adapter: Service) -> dict[str, Any]:
    done = subprocess.run(
        [python, CLIENTS / f"ask_{name}.py", f"{adapter.url}/v1"],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_langchain(adapter: Service, tiny: Service, smollm2: Service) -> None:
    answers = ask("langchain", sys.executable, adapter)
    plain, streamed = answers["plain"], answers["streamed"]
    assert (plain["content"], plain["finish_reason"]) == (PARIS, "stop")
    assert plain["usage"]["output_tokens"] == 8 and plain["usage"]["input_tokens"] > 20
    assert streamed.pop("pieces") > 5
    assert counted(streamed) == counted(plain)

    called = answers["called"]
    assert called["finish_reason"] == "tool_calls" and called["refused"] == []
    (call,) = called["calls"]
    assert call["name"] == "GetWeather" and call["args"]["city"] in ("Paris", "Oslo") and call["id"]
    again = answers["called_streamed"]
    assert again.pop("pieces") > 5
    for answer in (again, answers["named"]):
        assert [(each["name"], each["args"]) for each in answer["calls"]] == [("GetWeather", call["args"])]
        assert answer["finish_reason"] == "tool_calls"
    assert answers["after_a_result"]["finish_reason"] == "length"

    assert all(verdict in VERDICTS for verdict in answers["structured"].values())
    assert answers["structured_streamed"] in VERDICTS
    logprobs = answers["logprobs"]["logprobs"]["content"]
    assert "".join(token["token"] for token in logprobs) == answers["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in logprobs] == [2, 2, 2, 2]
    assert [usage["output_tokens"] for usage in answers["batch"]] == [4, 4, 4]
    assert answers["responses"]["output_tokens"] == 4
    assert answers["completion"].startswith(" Paris")


def counted(answer: dict[str, Any]) -> dict[str, Any]:
    """Without how much of the prompt was cached, which depends on what was asked before."""
    return {**answer, "usage": {name: answer["usage"][name] for name in ("input_tokens", "output_tokens")}}


@pytest.fixture(scope="module")
def instructor() -> Path:
    return client_python("instructor")


@pytest.fixture(scope="module")
def litellm() -> Path:
    return client_python("litellm")


def test_instructor(adapter: Service, smollm2: Service, instructor: Path) -> None:
    answers = ask("instructor", instructor, adapter)
    for mode in ("tools", "tools_strict", "schema"):
        assert answers[mode] in VERDICTS
    assert answers["usage"]["completion_tokens"] > 5
    assert isinstance(answers["json"], dict)
    for mode in ("partial", "partial_schema"):
        assert answers[mode][0] == {"mood": None, "stars": None}
        assert answers[mode][-1] in VERDICTS
        assert len(answers[mode]) > 5  # it came in pieces


def test_litellm(adapter: Service, tiny: Service, smollm2: Service, litellm: Path) -> None:
    answers = ask("litellm", litellm, adapter)
    for name in ("plain", "streamed"):
        (choice,) = answers[name]["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (PARIS, "stop")
        assert answers[name]["usage"]["completion_tokens"] == 8
    for name in ("called", "called_streamed"):
        (choice,) = answers[name]["choices"]
        assert not choice["message"]["content"] and choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["id"] and call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Oslo")
    assert min(answers[name]["pieces"] for name in ("streamed", "called_streamed")) > 5
    assert json.loads(answers["structured"]["choices"][0]["message"]["content"]) in VERDICTS
    choices = answers["choices"]["choices"]
    assert [len(choice["logprobs"]["content"]) for choice in choices] == [2, 2]
    assert choices[0]["message"]["content"] != choices[1]["message"]["content"]
    assert answers["completion"]["usage"]["completion_tokens"] == 3
    assert answers["responses"]["status"] == "incomplete"
    assert answers["responses"]["usage"]["output_tokens"] == 16
    failures = [answers[name] for name in ("too_warm", "no_such_model", "too_long")]
    assert failures == ["BadRequestError", "NotFoundError", "ContextWindowExceededError"]
