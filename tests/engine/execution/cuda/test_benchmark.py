"""The GPU's benchmark from end to end, on a tiny model and the CPU, in a process of its own as on the GPU's machine."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import PARTS, STAGES

REPOSITORY = Path(__file__).parents[4]


def test_every_part_runs_and_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = json.loads((tmp_path / "gpu-cpu-tiny.json").read_text())["parts"]
    assert parts.keys() == {*PARTS} - {"profile", "fp8"}
    assert parts["environment"]["works"]["product"]["ok"]
    for name, way in parts["start"]["ways"].items():
        assert way["ok"], (name, way)
        assert way["tokens_equal"] == way["top1_agreement"] == 1.0
    assert parts["load"]["kv_tokens"] > 1000
    assert parts["load"]["first_answer"]["total_tokens_per_second"] > 0
    assert parts["check"]["tiny_float32"]["tokens_equal"] == 1.0
    assert parts["check"]["against_transformers"]["top1_agreement"] == 1.0
    assert parts["check"]["against_transformers"]["logprob_gap_max"] < 1e-3
    for part in ("naive", "static", "batching", "ours"):
        for load in parts[part]["loads"]:
            assert "error" not in load, (part, load)
            assert load["total_tokens_per_second"] > 0
            assert load["ttft_ms_p50"] > 0


def test_the_stages_are_all_parts_in_their_order() -> None:
    assert [part for parts in STAGES.values() for part in parts] == [*PARTS]
