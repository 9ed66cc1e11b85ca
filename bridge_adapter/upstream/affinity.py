"""Which of several servers a conversation belongs to, so that its prefix is found in that server's cache. Pure.

Rendezvous hashing (Thaler and Ravishankar 1998) orders the servers of a key: everybody who knows the same names agrees
without talking, and a server that goes moves its own keys only. Bounded loads (Mirrokni, Thorup and Zadimoghaddam 2016,
"Consistent Hashing with Bounded Loads") keep a popular key from filling one server: nobody holds more than `BOUND`
times the average, and what is above goes to the key's next server.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

BOUND = 1.5
"""Most load of one server over the average, the paper's c = 1 + epsilon. docs/scale.md says what other values cost."""

FREE = 8
"""Requests in flight that a server may always hold: so small a batch is no slower, and a chat that moves is computed
again."""

_LONGEST_BEGINNING = 4  # messages; of a prompt or an input that is one string, 1024 characters


def conversation_key(body: Mapping[str, Any]) -> bytes | None:
    """What requests of one conversation share, of a ChatCompletions, completions, responses or predict body.

    `prompt_cache_key` if there is one, else the beginning of the conversation together with `user`. None for a body
    from which nothing can be taken; such a request has no home.
    """
    cache_key = body.get("prompt_cache_key")
    if isinstance(cache_key, str) and cache_key:
        return _digest("key", cache_key)
    beginning = _beginning(body)
    return None if beginning is None else _digest("text", body.get("user"), beginning)


def _beginning(body: Mapping[str, Any]) -> Any:
    for name in ("messages", "input"):
        turns = body.get(name)
        if isinstance(turns, list) and turns:
            return _until_first_question(turns)
        if isinstance(turns, str) and turns:
            return turns[:1024]
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
        prompt = prompt[0]
    return prompt[:1024] if isinstance(prompt, str | list) and prompt else None


def _until_first_question(turns: list[Any]) -> list[Any]:
    """What stays the same through all turns: the system prompt and the first message of the user."""
    for number, turn in enumerate(turns[:_LONGEST_BEGINNING]):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return turns[: number + 1]
    return turns[:_LONGEST_BEGINNING]


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def ranking(key: bytes, weights: Mapping[str, float]) -> list[str]:
    """The servers in the order in which the key prefers them; each is first for its share of the keys by weight.

    Weighted rendezvous hashing: score -w / ln(h) with h uniform in (0, 1) of key and name (Schindelhauer and
    Schomaker 2005). Servers of weight 0 come last.
    """

    def score(name: str) -> float:
        digest = hashlib.blake2b(name.encode(), key=key, digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 1) / (2**64 + 2)
        return -weights[name] / math.log(uniform)

    return sorted(weights, key=lambda name: (-score(name), name))


def choose(key: bytes | None, loads: Mapping[str, int], weights: Mapping[str, float], *, bound: float = BOUND) -> str:
    """The server for one more request: the key's first one within its bound, without a key the least loaded.

    loads: requests in flight by name; weights: likewise, of the same names, which must not be empty.
    """
    if key is None:
        return min(loads, key=lambda name: (loads[name] / max(weights[name], 1e-9), -weights[name], name))
    order = ranking(key, weights)
    within = capacities(sum(loads.values()) + 1, weights, bound)
    return next((name for name in order if loads[name] < within[name]), order[0])


def capacities(requests: int, weights: Mapping[str, float], bound: float = BOUND) -> dict[str, int]:
    """How many of `requests` each server may hold: its share by weight times the bound, rounded up, FREE at least."""
    total = sum(weights.values()) or 1.0
    return {name: max(FREE, math.ceil(bound * requests * weight / total)) for name, weight in weights.items()}
