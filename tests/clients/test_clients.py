"""Other clients than OpenAI's own, each a program of its own that prints what its client made of the answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.serve import REPOSITORY
from tests.clients.environment import CLIENTS, client_python
from tests.e2e.front import Front

QUIET = {"LANGSMITH_TRACING": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "true"}  # nobody else is called
PARIS = "The capital of France is Paris."
MANY = 5  # pieces of an answer of 100 tokens; on a busy machine several tokens come in one, and a short answer in few
VERDICTS = [{"mood": mood, "stars": stars} for mood in ("good", "bad") for stars in (1, 2)]


def ask(name: str, python: Path | str, front: Front) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(run([python, CLIENTS / f"ask_{name}.py"], front))
    return answers


def run(command: list[str | Path], front: Front) -> str:
    """What a program printed that was given the addresses of smollm2 and tiny."""
    done = subprocess.run(
        [*command, f"{front.url('smollm2')}/v1", f"{front.url('tiny')}/v1"],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_langchain(front: Front) -> None:
    answers = ask("langchain", sys.executable, front)
    plain, streamed = answers["plain"], answers["streamed"]
    assert (plain["content"], plain["finish_reason"]) == (PARIS, "stop")
    assert plain["usage"]["output_tokens"] == 8 and plain["usage"]["input_tokens"] > 20
    assert answers["pieces"] > MANY
    assert counted(streamed) == counted(plain)

    called = answers["called"]
    assert called["finish_reason"] == "tool_calls" and called["refused"] == []
    (call,) = called["calls"]
    assert call["name"] == "GetWeather" and call["args"]["city"] in ("Paris", "Oslo") and call["id"]
    again = answers["called_streamed"]
    for answer in (again, answers["named"]):
        assert [(each["name"], each["args"]) for each in answer["calls"]] == [("GetWeather", call["args"])]
    # OpenAI says `stop` after a call that the request forced by name.
    assert (again["finish_reason"], answers["named"]["finish_reason"]) == ("tool_calls", "stop")
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


def test_instructor(front: Front, instructor: Path) -> None:
    answers = ask("instructor", instructor, front)
    for mode in ("tools", "tools_strict", "schema"):
        assert answers[mode] in VERDICTS
    assert answers["usage"]["completion_tokens"] > 5
    assert isinstance(answers["json"], dict)
    for mode in ("partial", "partial_schema"):
        *parts, last = answers[mode]
        assert last in VERDICTS
        for name, value in last.items():
            assert all(part[name] is None or str(value).startswith(str(part[name])) for part in parts)


def test_litellm(front: Front, litellm: Path) -> None:
    answers = ask("litellm", litellm, front)
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
    assert answers["story"]["pieces"] > MANY
    assert json.loads(answers["structured"]["choices"][0]["message"]["content"]) in VERDICTS
    choices = answers["choices"]["choices"]
    assert [len(choice["logprobs"]["content"]) for choice in choices] == [2, 2]
    assert choices[0]["message"]["content"] != choices[1]["message"]["content"]
    assert answers["completion"]["usage"]["completion_tokens"] == 3
    assert answers["responses"]["status"] == "incomplete"
    assert answers["responses"]["usage"]["output_tokens"] == 16
    unknown = "NotFoundError" if front.name == "adapter" else "none"  # a Truss answers for any model
    failures = [answers[name] for name in ("too_warm", "no_such_model", "too_long")]
    assert failures == ["BadRequestError", unknown, "ContextWindowExceededError"]


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK here: apt-get install default-jdk-headless")
def test_the_http_client_of_the_jdk(front: Front) -> None:
    """It offers h2c with its first request; the second goes over the same connection, the third is streamed."""
    lines = run(["java", CLIENTS / "java" / "Ask.java"], front).splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["200", "HTTP_1_1"]] * 3
    for line in lines[:2]:
        assert json.loads(line.split(" ", 2)[2])["usage"]["completion_tokens"] == 4
    assert lines[2].endswith("data: [DONE]")


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed")
def test_openai_for_node(front: Front, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(REPOSITORY / "examples" / "node" / "node_modules")
    program = shutil.copy(CLIENTS / "node" / "ask.mjs", tmp_path)
    answers = json.loads(run(["node", program], front))
    for name in ("plain", "streamed"):
        assert answers[name]["text"] == PARIS
        assert answers[name]["usage"]["completion_tokens"] == 8
    assert answers["pieces"] > MANY
    assert answers["plain"]["id"].startswith("req_")
    for name in ("called", "calledStreamed"):
        choice = answers[name]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Oslo")
    assert (answers["response"], answers["responseStreamed"]) == (PARIS, PARIS)
    assert answers["tooWarm"] == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "decimal_above_max_value",
        "param": "temperature",
    }
    if front.name == "adapter":  # a Truss answers for any model
        assert answers["noSuchModel"]["kind"] == "NotFoundError"
