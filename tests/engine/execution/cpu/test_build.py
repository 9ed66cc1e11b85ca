"""Building the kernels where the cache's disk is full: plain torch instead, and the kernels once there is room."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, resource, sys
from truss_model.engine.execution.cpu.build import kernels
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
print("built" if kernels() is not None else "fell back")
"""


def build(cache: Path, largest_file: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(largest_file)]
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=100)


@pytest.mark.parametrize("largest_file", [0, 4096])
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, largest_file: int) -> None:
    full = build(tmp_path, largest_file)
    assert full.stdout == "fell back\n"
    assert "torch operators are used instead" in full.stderr
    assert list(tmp_path.rglob("*.so")) == []
    if largest_file:
        assert build(tmp_path, resource.RLIM_INFINITY).stdout == "built\n"
