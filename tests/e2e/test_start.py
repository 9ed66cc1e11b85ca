"""What the Truss server says of its start on the machine that runs it."""

from pathlib import Path

import httpx
import pytest

from scripts.assemble import Image
from scripts.process import free_port
from scripts.stack import start_truss, wait_truss
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_first_way_to_run_the_model_serves(dtype: str, image: Image, demo_weights: Path, tmp_path: Path) -> None:
    """Kernels that the self-check finds wrong would give way to slower ones, and every answer would still be right."""
    port, environment = free_port(), {**BASE_ENVIRONMENT, "TRUSS_MODEL_PATH": str(demo_weights)}
    with start_truss(image, port, tmp_path, environment=environment | {"TRUSS_MODEL_DTYPE": dtype}) as process:
        wait_truss(process, port, LOAD_SECONDS)
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics/", timeout=30).text.splitlines()
    starts = [line for line in lines if line.startswith("truss_model_start{")]
    assert starts == ['truss_model_start{detail="",outcome="serves",rung="all kernels"} 1.0']
