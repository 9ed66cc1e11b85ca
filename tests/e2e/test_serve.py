"""`make demo` holds its conversation; `make serve` tells how to talk to it and leaves no process behind."""

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.local_stack import left_over, local_environment, read_until, start
from tests.e2e.server import LOAD_SECONDS

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environment(demo_weights: Path, tmp_path: Path) -> dict[str, str]:
    """The demo model as a machine without GPU and weights finds it once it is converted."""
    return local_environment(tmp_path) | {"TRUSS_MODEL_CACHE_DIR": str(demo_weights.parent)}


def test_demo(environment: dict[str, str]) -> None:
    with start("demo", environment) as demo:
        printed, _ = demo.communicate(timeout=LOAD_SECONDS)
    assert demo.returncode == 0, printed
    answers = re.findall(r"assistant: (.+)|streamed: (.+)", printed)
    assert len(answers) == 3  # the guide's own, the plain one, the streamed one
    assert answers[1][0].strip() == answers[2][1].strip()
    assert re.findall(r"finish_reason=(\w+) usage=prompt_tokens (\d+)", printed)[0][0] in ("stop", "length")
    assert "prompt_tokens 0" not in printed
    assert "torchao" not in printed and "register_constant" not in printed  # it is not imported, so says nothing
    assert left_over(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_it_is_told_to_stop(environment: dict[str, str], number: signal.Signals) -> None:
    url = f"http://127.0.0.1:{environment['PORT']}"
    with start("serve", environment) as serve:
        printed = read_until(serve, "-- Ctrl-C stops")
        assert f"localhost:{environment['PORT']}/v1" in printed and "curl" in printed, printed
        assert httpx.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"] == "mistral-7b"
        running = [found for found in left_over(environment) if not found.startswith("port ")]
        assert len(running) == 3, running  # the Truss server, its engine, and the adapter
        serve.send_signal(number)
        serve.communicate(timeout=60)
    assert serve.returncode == 0
    assert left_over(environment) == []


# What is printed before the signal is sent; the first: nothing, so that it comes while Python itself starts.
MOMENTS = ["", "-- putting", "-- starting", "   adapter |", "   model | Importing", "   model | Weights of", "-- ready"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_leaves_nothing(tiny_mistral: Path, tmp_path: Path, moment: str) -> None:
    environment = local_environment(tmp_path) | {"MODEL": str(tiny_mistral), "TRUSS_MODEL_CPU_KERNELS": "0"}
    with start("serve", environment) as serve:
        printed = read_until(serve, moment)
        os.killpg(serve.pid, signal.SIGINT)  # as a terminal does it
        try:
            printed += serve.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            # Python drops an interrupt that comes inside a callback, as those of its imports. One presses again then.
            assert moment == ""
            os.killpg(serve.pid, signal.SIGINT)
            printed += serve.communicate(timeout=60)[0]
    assert left_over(environment) == []
    assert moment == "" or (serve.returncode == 0 and "Traceback" not in printed), printed


def test_ctrl_c_in_the_demos_conversation_leaves_nothing(environment: dict[str, str]) -> None:
    with start("demo", environment) as demo:
        read_until(demo, "     user: Where was it played?")
        os.killpg(demo.pid, signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 0
    assert left_over(environment) == []
