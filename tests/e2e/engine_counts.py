"""The engine's own counts, as the Truss server exports them."""

import asyncio
import time
from collections.abc import Callable

import httpx

from tests.e2e.server import Service

PREFIX = "truss_model_"


async def engine_counts(truss: Service) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{truss.url}/metrics/", timeout=30)).text
    pairs = (line.split() for line in text.splitlines() if line.startswith(PREFIX) and "{" not in line)
    return {name.removeprefix(PREFIX).removesuffix("_total"): float(value) for name, value in pairs}


async def until(
    truss: Service, condition: Callable[[dict[str, float]], bool], seconds: float = 30.0
) -> dict[str, float]:
    """The first counts that meet the condition; fails with the last ones seen."""
    end = time.monotonic() + seconds
    while not condition(counts := await engine_counts(truss)):
        assert time.monotonic() < end, counts
        await asyncio.sleep(0.05)
    return counts
