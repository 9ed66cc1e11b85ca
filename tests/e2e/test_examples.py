"""What README and examples/ print runs as printed; only addresses are replaced by those of the test's own servers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.process import free_port
from scripts.serve import REPOSITORY
from tests.e2e.baseten import API_KEY, MODEL_ID, Baseten
from tests.e2e.server import Service

EXAMPLES = REPOSITORY / "examples"
LOCAL = "http://localhost:8000"
LOCAL_TRUSS = "http://localhost:8080"
NODE_MODULES = EXAMPLES / "node" / "node_modules"


def run(command: list[str | Path], **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_text(text: str, folder: Path, interpreter: list[str | Path], name: str, **environment: str) -> str:
    file = folder / name
    file.write_text(text)
    return run([*interpreter, file], **environment)


@pytest.fixture(scope="module")
def stack(adapter: Service, smollm2: Service) -> str:
    return adapter.url


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


def test_every_python_block_of_the_readme(stack: str, smollm2: Service, tmp_path: Path) -> None:
    printed = blocks("python")
    assert printed
    for block in printed:
        assert LOCAL in block
        text = block.replace(LOCAL, stack).replace(LOCAL_TRUSS, smollm2.url)
        assert run_text(text, tmp_path, [sys.executable], "block.py").strip()


@pytest.mark.parametrize("name", ["stream.py", "tools.py", "structured.py", "langchain_chat.py"])
def test_python(stack: str, tmp_path: Path, name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert LOCAL in text
    printed = run_text(text.replace(LOCAL, stack), tmp_path, [sys.executable], name, LANGSMITH_TRACING="false")
    assert printed.strip()
    expected = {"stream.py": "48 tokens|\\d+ tokens", "tools.py": "get_weather", "structured.py": "mood="}
    assert re.search(expected.get(name, "."), printed)


def test_curl(stack: str, tmp_path: Path) -> None:
    text = (EXAMPLES / "curl.sh").read_text()
    printed = run_text(text.replace(LOCAL, stack), tmp_path, ["sh"], "curl.sh")
    assert '"object":"chat.completion"' in printed
    assert "data: [DONE]" in printed
    assert '"id":"mistral-7b"' in printed.replace(" ", "")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_node(stack: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    text = (EXAMPLES / "node" / "chat.mjs").read_text()
    printed = run_text(text.replace(LOCAL, stack), tmp_path, ["node"], "chat.mjs")
    assert "total_tokens" in printed


def test_async_predict(smollm2: Service, tmp_path: Path) -> None:
    text = (EXAMPLES / "async_predict.py").read_text()
    port = free_port()
    with Baseten() as platform:
        platform.truss = f"{smollm2.url}/v1/models/model:predict"
        text = text.replace("https://model-abcd1234.api.baseten.co", f"{platform.url}/model-{MODEL_ID}")
        text = text.replace("9000", str(port)).replace("https://your-tunnel.example", f"http://127.0.0.1:{port}")
        printed = run_text(text, tmp_path, [sys.executable], "async_predict.py", BASETEN_API_KEY=API_KEY)
    queued, answered = printed.splitlines()[0].split()[-1], printed.splitlines()[1].split()[0]
    assert queued == answered
