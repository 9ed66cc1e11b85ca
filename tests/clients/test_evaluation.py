"""The programs that measure a server and a model: guidellm and lm-eval, as their users start them."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import CLIENTS, client_python
from tests.e2e.server import Service

TOKENS = 8
pytestmark = [pytest.mark.evaluation, pytest.mark.timeout(600)]


def run(command: list[str | Path], folder: Path) -> str:
    """In a folder of its own, which also takes its caches."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_guidellm(adapter: Service, smollm2: Service, tmp_path: Path) -> None:
    """It asks /health before it begins, then streams with usage."""
    python = client_python("guidellm", beside_ours=True)
    prompts, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    rows = [{"prompt": f"Say {word}.", "output_tokens_count": TOKENS} for word in ("one", "two", "three")]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command: list[str | Path] = [python.parent / "guidellm", "run", "--disable-console-interactive"]
    command += ["--backend", f"kind=openai_http,target={adapter.url},model=smollm2"]
    command += ["--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=3"]
    command += ["--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={report}"]
    run(command, tmp_path)
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert (len(requests["successful"]), requests["errored"]) == (3, [])
    assert [request["output_tokens"] for request in requests["successful"]] == [TOKENS] * 3


def lm_eval(adapter: Service, folder: Path, task: str, *arguments: str) -> dict[str, Any]:
    """The metrics of one task of tasks/ on the demo model."""
    python = client_python("lm_eval", beside_ours=True)
    shutil.copytree(CLIENTS / "tasks", folder / "tasks")
    shutil.copy(CLIENTS / "tasks" / "capitals.jsonl", folder)
    where = ",".join([f"base_url={adapter.url}/v1/completions", "model=smollm2", "max_retries=1", *arguments])
    command: list[str | Path] = [python.parent / "lm_eval", "run", "--model", "local-completions"]
    command += ["--model_args", where, "--tasks", task, "--include_path", "tasks", "--output_path", "results"]
    run(command, folder)
    (results,) = (folder / "results").rglob("results_*.json")
    found: dict[str, Any] = json.loads(results.read_text())["results"][task]
    return found


def test_lm_eval_generates(adapter: Service, smollm2: Service, tmp_path: Path) -> None:
    found = lm_eval(adapter, tmp_path, "bridge_capitals", "tokenizer_backend=None")
    assert found["exact_match,none"] == 1


def test_lm_eval_compares_log_probabilities(
    adapter: Service, smollm2: Service, demo_weights: Path, tmp_path: Path
) -> None:
    """Token ids with `echo` and `logprobs`: what all its multiple choice tasks are made of."""
    found = lm_eval(adapter, tmp_path, "bridge_capitals_choice", f"tokenizer={demo_weights}", "tokenized_requests=True")
    assert found["acc,none"] == 1
