"""Prompts of known length. Each starts with words drawn for it alone, so that no server has its tokens cached."""

import random
from typing import Literal

Message = dict[str, str]
PromptLength = Literal["short", "long"]

# Common English words: about one token each in any vocabulary.
WORDS = (
    "water stone river light garden winter summer music paper table window street mountain forest ocean island bridge "
    "teacher doctor farmer sailor market village city school history science nature animal flower bird horse train "
    "engine machine kitchen bread butter sugar coffee morning evening night letter story question answer number color "
    "green yellow heavy quiet simple early modern ancient public private open"
).split()
TOPICS = ("a bicycle", "a steam engine", "a sailing ship", "a wind mill", "a telescope", "a piano", "a printing press")
LONG_WORDS = 480  # with the question and the template's system text: about 540 tokens


def question(nonce: int, length: PromptLength) -> list[Message]:
    """About 70 or 540 tokens with the chat template of SmolLM2; the answer to it is longer than any test asks for."""
    draw = random.Random(nonce)
    topic = draw.choice(TOPICS)
    lead = " ".join(draw.choices(WORDS, k=10 if length == "short" else LONG_WORDS))
    ask = f"Write a very long and detailed essay about how {topic} works, with many examples."
    return [{"role": "user", "content": f"Notes: {lead}. {ask}"}]


def document(nonce: int, tokens: int) -> list[Message]:
    """One long text, about so many tokens, and a question about it."""
    words = " ".join(random.Random(nonce).choices(WORDS, k=tokens - 50))
    return [{"role": "user", "content": f"{words}. What is this text about?"}]


def prefixed_question(prefix: int, tail: int, prefix_tokens: int = 500) -> list[Message]:
    """Two of the same `prefix` share about `prefix_tokens` tokens and differ after them."""
    words = " ".join(random.Random(prefix).choices(WORDS, k=prefix_tokens - 30))
    ends = " ".join(random.Random(1_000_000 + tail).choices(WORDS, k=10))
    return [{"role": "user", "content": f"{words}. Write an essay about {ends}."}]


def chat_opening(nonce: int) -> list[Message]:
    """The system text that many conversations share, about 200 tokens, and the first turn of one of them."""
    rules = " ".join(random.Random(7).choices(WORDS, k=190))
    return [{"role": "system", "content": f"You are a helpful assistant. {rules}."}, chat_turn(nonce, 0)]


def chat_turn(nonce: int, turn: int) -> Message:
    words = " ".join(random.Random(nonce * 1000 + turn).choices(WORDS, k=30))
    return {"role": "user", "content": f"Tell me more about these: {words}."}
