"""What grammars cost: 16 constrained rows against 16 free ones, and what a fresh 100-field schema does to other rows.

`python -m benchmarks.constrained [--rounds 3]`
"""

import argparse
import asyncio
import dataclasses
import statistics
import time
from typing import Any

from benchmarks.client import Answer
from benchmarks.demo_engine import DemoEngine, demo_engine, greedy
from benchmarks.figures import figures
from benchmarks.load import closed_loop
from benchmarks.prompts import Message, question
from benchmarks.report import Report, say, table
from truss_model.engine.sampling_params import SamplingParams
from truss_model.grammar.compiler import GrammarCompiler

ROWS = 16
TOKENS = 96
FIELDS = 100
OTHERS = 8
ARRIVALS = 5


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def endless() -> dict[str, Any]:
    """No row can finish before its tokens are used up."""
    return json_schema({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1000})


def many_fields(number: int) -> dict[str, Any]:
    """Names that no schema has had before, so that nothing of it can be kept from an earlier one."""
    kinds: list[dict[str, Any]] = [
        {"type": "string", "maxLength": 20},
        {"type": "integer", "minimum": 0, "maximum": 1000},
        {"enum": [f"red{number}", f"green{number}", f"blue{number}"]},
        {"type": "array", "items": {"type": "number"}, "maxItems": 5},
        {"type": "object", "properties": {f"inner{number}": {"type": "boolean"}}, "additionalProperties": False},
    ]
    properties = {f"field_{number}_{index}": kinds[index % len(kinds)] for index in range(FIELDS)}
    return json_schema(
        {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    )


class Grammars:
    """Bodies with a response_format -> parameters with its constraint, by the way that predict goes."""

    def __init__(self, demo: DemoEngine) -> None:
        self._demo = demo
        self._compiler = GrammarCompiler(demo.tokenizer)

    def params(self, response_format: dict[str, Any], tokens: int) -> SamplingParams:
        request = self._demo.parse({"messages": question(1, "short"), "response_format": response_format})
        constraint = self._compiler.compile(request.response_format, request.tools)
        return SamplingParams(max_tokens=tokens, temperature=0.0, constraint=constraint)


async def decode(demo: DemoEngine, params: SamplingParams, nonce: int) -> float:
    """Tokens a second of ROWS rows at once."""
    prompts = [demo.encode(question(nonce * 1000 + number, "short")) for number in range(ROWS)]

    async def ask(number: int) -> Answer:
        return await demo.generate(prompts[number], params)

    answers = await closed_loop(ask, ROWS, ROWS)
    if any(answer.tokens != params.max_tokens for answer in answers):
        raise RuntimeError(f"Rows of {[answer.tokens for answer in answers]} tokens: no fair comparison.")
    return figures(answers, 0, 0).tokens_per_second


async def speed(demo: DemoEngine, grammars: Grammars, rounds: int) -> dict[str, float]:
    constrained, free = [], []
    for number in range(rounds):
        say(f"speed, round {number + 1} of {rounds}")
        free.append(await decode(demo, greedy(TOKENS), 2 * number))
        constrained.append(await decode(demo, grammars.params(endless(), TOKENS), 2 * number + 1))
    pairs = zip(constrained, free, strict=True)
    return {
        "free_tokens_per_second": statistics.median(free),
        "constrained_tokens_per_second": statistics.median(constrained),
        "constrained_of_free": statistics.median(one / other for one, other in pairs),
    }


async def arrival(demo: DemoEngine, grammars: Grammars, response_format: dict[str, Any] | None, nonce: int) -> float:
    """The longest gap of OTHERS decoding rows, in ms, from the arrival of one more request to its second token."""
    message: list[Message] = question(nonce, "short")
    prompts = [demo.encode(question(nonce * 1000 + number, "short")) for number in range(OTHERS)]
    others = [asyncio.create_task(demo.generate(prompt, greedy(80))) for prompt in prompts]
    await demo.generate(demo.encode(question(nonce + 500, "short")), greedy(8))  # by then all others decode
    began = time.perf_counter()
    params = greedy(2)
    if response_format is not None:
        params = await asyncio.to_thread(grammars.params, response_format, 2)
        params = dataclasses.replace(params, ignore_eos=True)
    compiled = time.perf_counter()
    added = await demo.generate(demo.encode(message), params)
    answers = await asyncio.gather(*others)
    longest = max(
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.stamps, answer.stamps[1:], strict=False)
        if began < later and earlier < added.ended
    )
    say(f"compiled in {(compiled - began) * 1e3:.0f} ms, longest gap {longest * 1e3:.0f} ms")
    return longest * 1e3


async def delay(demo: DemoEngine, grammars: Grammars) -> dict[str, float]:
    """A fresh schema's arrival against that of a request like it without one."""
    free, fresh = [], []
    for number in range(ARRIVALS):
        free.append(await arrival(demo, grammars, None, 3_000 + 2 * number))
        fresh.append(await arrival(demo, grammars, many_fields(number), 3_001 + 2 * number))
    return {
        "longest_gap_free_ms": statistics.median(free),
        "longest_gap_fresh_schema_ms": statistics.median(fresh),
        "delay_ms": statistics.median(fresh) - statistics.median(free),
        "worst_delay_ms": max(fresh) - statistics.median(free),
    }


async def measure(rounds: int) -> dict[str, float]:
    with demo_engine() as demo:
        grammars = Grammars(demo)
        await decode(demo, greedy(4), 999)
        return {**await speed(demo, grammars, rounds), **await delay(demo, grammars)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = asyncio.run(measure(options.rounds))
    table(f"{ROWS} rows of {TOKENS} tokens; a fresh schema of {FIELDS} fields", ("what", "value"), list(result.items()))
    Report("constrained").add("constrained", {"rows": ROWS, "tokens": TOKENS, "result": result})


if __name__ == "__main__":
    main()
