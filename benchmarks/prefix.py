"""What a shared prefix saves: the time to the first token of two prompts that share 500 tokens, one after the other."""

import statistics
from typing import Any

from benchmarks.client import ChatClient
from benchmarks.prompts import prefixed_question

PAIRS = 5


async def measure(client: ChatClient, nonce: int) -> dict[str, Any]:
    firsts, seconds, cached = [], [], []
    for pair in range(PAIRS):
        prefix = nonce * 1000 + pair
        cold = await client.ask(prefixed_question(prefix, 2 * prefix), 2)
        warm = await client.ask(prefixed_question(prefix, 2 * prefix + 1), 2)
        firsts.append(cold.first * 1e3)
        seconds.append(warm.first * 1e3)
        cached.append(warm.cached_tokens / (warm.prompt_tokens or 1))
    return {
        "pairs": PAIRS,
        "ttft_cold_ms": statistics.median(firsts),
        "ttft_warm_ms": statistics.median(seconds),
        "warm_of_cold": statistics.median(warm / cold for cold, warm in zip(firsts, seconds, strict=True)),
        "cached_share": statistics.median(cached),
    }
