"""Random JSON schemas of the keywords in common use, and random answers under a grammar's masks."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from truss_model.engine.sampling_params import TokenConstraint
from truss_model.output.answer import Delta, RowDecoder
from truss_model.request.tools import NO_TOOLS, ToolUse
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

NAMES = ["id", "name", "größe", "is open", "a-b", "values", "x"]


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    leaves: list[Callable[[random.Random], dict[str, Any]]] = [_string, _string, _number, _integer, _constant, _word]
    if depth == 0:
        return rng.choice(leaves)(rng)
    nested: list[Callable[[random.Random, int], dict[str, Any]]] = [_object, _object, _array, _tuple, _any_of, _one_of]
    kind = rng.randrange(10)
    return rng.choice(nested)(rng, depth - 1) if kind < 6 else rng.choice(leaves)(rng)


def object_schema(rng: random.Random) -> dict[str, Any]:
    """An object at the root, now and then with definitions, a recursive one among them."""
    schema = _object(rng, 2)
    if rng.random() < 0.3:
        tree = {
            "type": "object",
            "properties": {
                "value": _integer(rng),
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        schema["properties"]["tree"] = {"$ref": "#/$defs/tree"}
        schema["$defs"] = {"tree": tree}
    return schema


def _string(rng: random.Random) -> dict[str, Any]:
    extra: list[dict[str, Any]] = [
        {"maxLength": rng.randint(0, 8)},
        {"minLength": 2, "maxLength": rng.randint(2, 12)},
        {"pattern": rng.choice(["^[a-z]{2,5}$", "^(a|bc)+x$", r"^\d{3}-\d{4}$", "^é?[A-Z]*$"])},
        {"format": rng.choice(["date", "uuid", "ipv4", "email"])},
    ]
    return {"type": "string"} | rng.choice(extra)


def _integer(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    extra = [
        {"minimum": low, "maximum": low + rng.randint(0, 100)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + 10},
        {"minimum": 0, "maximum": 100, "multipleOf": rng.choice([2, 5, 7])},
    ]
    return {"type": "integer"} | rng.choice(extra)


def _number(rng: random.Random) -> dict[str, Any]:
    return {"type": "number", "minimum": rng.choice([-1.5, 0, 2]), "exclusiveMaximum": rng.choice([3, 100.25])}


def _constant(rng: random.Random) -> dict[str, Any]:
    return rng.choice([{"enum": ["a", 1, None, True]}, {"const": {"k": [1, "é"]}}, {"enum": ["x y", 'q"\\']}])


def _word(rng: random.Random) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": rng.choice([False, False, _integer(rng)]),
    }
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {
        "type": "array",
        "items": random_schema(rng, depth),
        "minItems": least,
        "maxItems": least + rng.randint(0, 2),
    }


def _tuple(rng: random.Random, depth: int) -> dict[str, Any]:
    prefix = [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]
    return {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(prefix)}


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]}


def _one_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {
        "oneOf": [_integer(rng), {"type": "array", "items": random_schema(rng, depth), "maxItems": 1}, _string(rng)]
    }


class RandomModel:
    """Samples any allowed token, those that close something more often, so that answers come to an end."""

    def __init__(self, tokenizer: ChatTokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng(seed)
        size = tokenizer.vocab_size
        closing = [any(byte in b'"]},:' for byte in tokenizer.vocabulary.token_bytes(token)) for token in range(size)]
        self._closing = np.array(closing)

    def answer(
        self, state: TokenConstraint, tools: ToolUse = NO_TOOLS, *, max_tokens: int = 400, at_once: bool = True
    ) -> tuple[list[Delta], bool, list[list[int]]]:
        """(deltas, whether it ended itself, the ids at each point where it could have). `at_once`: end when it may."""
        size = self._tokenizer.vocab_size
        words = np.zeros((size + 31) // 32 + 2, np.int32)  # logits are often wider than the tokenizer
        answer = RowDecoder(self._tokenizer, tools=tools)
        deltas: list[Delta] = []
        ids: list[int] = []
        ends: list[list[int]] = []
        for _ in range(max_tokens):
            state.fill(words)
            allowed = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
            assert not allowed[size:].any()
            eos = [token for token in self._tokenizer.eos_token_ids if allowed[token]]
            if eos:
                ends.append(list(ids))
            token = eos[0] if eos and at_once else self._choose(allowed[:size])
            state.accept(token)
            ids.append(token)
            deltas += answer.decode([token])
            if token in self._tokenizer.eos_token_ids or answer.stopped:
                return deltas + answer.finish(), True, ends
        return deltas + answer.finish(), False, ends

    def _choose(self, allowed: np.ndarray[Any, Any]) -> int:
        closing = np.flatnonzero(allowed & self._closing)
        choices = closing if len(closing) and self._rng.random() < 0.6 else np.flatnonzero(allowed)
        return int(self._rng.choice(choices))
