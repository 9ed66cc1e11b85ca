"""Every kernel compiles for the cards it is meant for, without spilling registers, in the shapes of Mistral-7B."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHARED_MEMORY = 227 * 1024  # bytes a block may have on an H100


def test_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    environment = {
        **os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), "90"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=115)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert {name: figures["overflow"] for name, figures in kernels.items()} == dict.fromkeys(kernels, 0)
    assert max(figures["shared"] for figures in kernels.values()) <= SHARED_MEMORY
