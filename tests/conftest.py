"""For all tests: property tests are not judged by the speed of the machine; GPU kernels run without a GPU, too."""

import os
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.real_stack"]

# Threads of one another's processes wait for each other; read when torch is imported, here and in the servers started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when triton is imported, which torch or transformers do.
if not list(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_mistral import write_tiny_mistral  # torch, which most tests do without

    folder = tmp_path_factory.mktemp("tiny-mistral")
    write_tiny_mistral(folder)
    return folder
