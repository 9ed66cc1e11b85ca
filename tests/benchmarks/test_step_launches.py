"""The benchmark of the host's part of a step: recorded, it is a few operations for the device, eager hundreds."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_it_runs_and_recordings_save_most_operations(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.step_launches", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads((tmp_path / "step_launches.json").read_text())["parts"]["steps"]["cases"]
    for name, ways in cases.items():
        eager, recorded = (sum(ways[way][kind] for kind in ("torch", "triton", "replays")) for way in ways)
        assert eager > 250
        assert recorded > 250 if "1,000" in name else recorded < 15
