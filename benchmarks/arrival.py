"""A long prompt arrives while eight rows decode: what that does to the time between their tokens."""

import asyncio
from typing import Any

from benchmarks.client import Answer, ChatClient
from benchmarks.figures import quantile
from benchmarks.prompts import document, question

ROWS = 8
TOKENS = 320
LONG_PROMPT = 6000
WARM_UP = 3.0  # seconds of decoding before the long prompt is sent


async def measure(client: ChatClient, nonce: int, *, long_prompt: int = LONG_PROMPT) -> dict[str, Any]:
    """Gaps before the prompt is sent, and from then until its first token or the rows' end."""
    rows = [asyncio.create_task(client.ask(question(nonce * 100 + i, "short"), TOKENS)) for i in range(ROWS)]
    try:
        probe = await client.ask(question(nonce * 100 + 99, "short"), 2)  # answered: the rows' prompts are done
        await asyncio.sleep(WARM_UP)
        long = await client.ask(document(nonce, long_prompt), 4)
        answers = await asyncio.gather(*rows)
    finally:
        for row in rows:
            row.cancel()
    before = _gaps(answers, probe.ended, long.sent)
    during = _gaps(answers, long.sent, long.stamps[0])
    return {
        "rows": ROWS,
        "long_prompt_tokens": long.prompt_tokens,
        "long_ttft_ms": long.first * 1e3,
        "gap_p95_before_ms": quantile(before, 0.95) * 1e3,
        "gap_p95_during_ms": quantile(during, 0.95) * 1e3,
        "gap_longest_during_ms": max(during, default=0.0) * 1e3,
        "during_of_before": quantile(during, 0.95) / quantile(before, 0.95),
        "gaps_during": len(during),
    }


def _gaps(answers: list[Answer], begin: float, end: float) -> list[float]:
    """Gaps that end within the interval."""
    stamps = (zip(answer.stamps, answer.stamps[1:], strict=False) for answer in answers)
    return [later - earlier for pairs in stamps for earlier, later in pairs if begin < later <= end]
