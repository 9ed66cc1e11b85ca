"""Many-turn chats that share a system text: each turn sends the whole history, as every chat client does."""

import statistics
from typing import Any

from benchmarks.client import Answer, ChatClient
from benchmarks.load import closed_loop
from benchmarks.prompts import chat_opening, chat_turn

CONVERSATIONS = 4
TURNS = 10
TOKENS = 24


async def measure(client: ChatClient, nonce: int) -> dict[str, Any]:
    """All conversations at once. Tokens are the server's own counts; what it does not tell is None."""
    told: dict[int, list[Answer]] = {}

    async def converse(number: int) -> Answer:
        own = nonce * 1000 + number
        messages = chat_opening(own)
        answers = told.setdefault(number, [])
        for turn in range(TURNS):
            if turn > 0:
                messages += [{"role": "assistant", "content": answers[-1].text}, chat_turn(own, turn)]
            answers.append(await client.ask(messages, TOKENS))
        return answers[-1]

    await closed_loop(converse, CONVERSATIONS, CONVERSATIONS)
    answers = [answer for conversation in told.values() for answer in conversation]
    seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    last_turns = [conversation[-1].first * 1e3 for conversation in told.values()]
    return {
        "conversations": CONVERSATIONS,
        "turns": TURNS,
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "ttft_p50_ms": statistics.median(answer.first * 1e3 for answer in answers),
        "ttft_last_turn_ms": statistics.median(last_turns),
        **_prefill(list(told.values())),
    }


def _prefill(conversations: list[list[Answer]]) -> dict[str, Any]:
    """`prefill_of_new`: prompt tokens computed, over those that no earlier turn had held."""
    if any(answer.prompt_tokens is None for answers in conversations for answer in answers):
        return {"prefill_tokens": None, "new_tokens": None, "prefill_of_new": None}
    computed = sum((a.prompt_tokens or 0) - a.cached_tokens for answers in conversations for a in answers)
    new = sum(answers[-1].prompt_tokens or 0 for answers in conversations)
    made = sum(answer.tokens for answers in conversations for answer in answers[:-1])
    return {
        "prefill_tokens": computed,
        "new_tokens": new,
        "prefill_of_new": computed / new,
        "prefill_of_new_without_answers": computed / (new - made),
    }
