"""Stacks that py-spy sampled -> the share of each stage in a token's way. Pure text work."""

from collections import Counter
from pathlib import Path

# The innermost frame that belongs to one of these decides.
STAGES = {
    "text and events": ("truss_model/output/", "truss_model/tokenizer/"),
    "delivery": ("engine/delivery.py", "engine/generation.py"),
    "sampling": ("execution/sampler.py",),
    "model runner": ("engine/execution/", "null_model.py"),
    "scheduler and engine": ("truss_model/engine/",),
    "service": ("truss_model/",),
    "HTTP: h11, uvicorn": ("h11/", "uvicorn/"),
    "HTTP: starlette, fastapi": ("starlette/", "fastapi/"),
    "Truss's server": ("truss_server.py", "model_wrapper.py", "_truss_"),
}


def stages(stacks: Path) -> dict[str, float]:
    """From py-spy's raw format: lines of `frame;frame;... count`, outermost first."""
    found: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        found[_stage(stack.split(";"))] += int(count)
    total = sum(found.values()) or 1
    return {stage: count / total for stage, count in found.most_common()}


def _stage(frames: list[str]) -> str:
    for frame in reversed(frames):
        for stage, places in STAGES.items():
            if any(place in frame for place in places):
                return stage
    return "event loop and the rest"
