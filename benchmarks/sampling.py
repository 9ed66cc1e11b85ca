"""What sampling costs: decode steps of rows that ask for everything and steps of greedy rows in turn.

`python -m benchmarks.sampling [--rounds 5]`
The runner's own steps on the demo model, without scheduler, Truss and HTTP; ratios are of neighbouring steps.
"""

import argparse
import dataclasses
import statistics
import time

from benchmarks.constrained import endless
from benchmarks.demo_engine import greedy
from benchmarks.prompts import question
from benchmarks.report import Report, say, table
from truss_model.engine.execution.limits import limits
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row, make_rows
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan
from truss_model.engine.settings import EngineSettings
from truss_model.grammar.compiler import GrammarCompiler
from truss_model.loading import load_model
from truss_model.request.predict_request import RequestLimits, parse_request
from truss_model.settings import ModelSettings
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer, load_tokenizer

STEPS = 24
ROWS = 64
SHARED, OWN = 4, 3  # pages of a row: those of the prompt, which all rows share, and those for its answer


EVERYTHING = SamplingParams(
    max_tokens=STEPS, temperature=0.8, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5,
    repetition_penalty=1.1, logit_bias={token: 1.0 for token in range(300, 310)}, seed=1, top_logprobs=20,
    ignore_eos=True,
)  # fmt: skip


class Steps:
    """Rows that go on from one prompt; two batches of them in turn."""

    def __init__(self) -> None:
        loaded = load_model(ModelSettings(id="demo"), {}, None)
        self.tokenizer = load_tokenizer(loaded.folder)
        settings = EngineSettings(max_rows=2 * ROWS)
        chosen = limits(loaded.model, settings)
        self._runner = ModelRunner(loaded.model, chosen, self.tokenizer.eos_token_ids, settings)
        self._runner.warm_up()
        self._prompt = (list(range(100, 1000)))[: SHARED * chosen.page_size]
        row = self._row(greedy(1), 0)
        self._runner.step(StepPlan([Chunk(row, 0, len(self._prompt), samples=True)]))

    def milliseconds(self, params: SamplingParams, count: int) -> list[tuple[float, float]]:
        """Decode steps of `count` greedy rows, each with the step of rows with these parameters that came next."""
        batches = [
            [self._row(asked, first + number) for number in range(count)]
            for first, asked in ((0, greedy(STEPS)), (ROWS, params))
        ]
        pairs = [(self._step(batches[0]), self._step(batches[1])) for _ in range(STEPS)]
        return pairs[2:]  # rows come with the first

    def _row(self, params: SamplingParams, number: int) -> Row:
        prompt = [*self._prompt, 1000 + number]
        row = make_rows(Generation(len(prompt), 1, lambda *_: None), prompt, params, 1, 0)[0]
        own = SHARED + number * OWN
        row.pages = [*range(SHARED), *range(own, own + OWN)]
        return row

    def _step(self, rows: list[Row]) -> float:
        plan = StepPlan([Chunk(row, len(row.tokens) - 1, 1, samples=True) for row in rows])
        began = time.perf_counter()
        tokens = self._runner.step(plan).tokens
        for row, token in zip(rows, tokens, strict=True):
            row.tokens.append(token)
            if (error := row.accept(token)) is not None:
                raise error
        return 1000 * (time.perf_counter() - began)


def schema_params(tokenizer: ChatTokenizer) -> SamplingParams:
    body = {"messages": question(1, "short"), "response_format": endless()}
    request = parse_request(body, RequestLimits(tokenizer.vocab_size, None))
    constraint = GrammarCompiler(tokenizer).compile(request.response_format, request.tools)
    return dataclasses.replace(greedy(STEPS), constraint=constraint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    steps = Steps()
    drawn = SamplingParams(max_tokens=STEPS, temperature=0.8, ignore_eos=True)
    cases = {
        "64 rows, temperature": (64, drawn),
        "64 rows, top_p": (64, dataclasses.replace(drawn, top_p=0.9)),
        "64 rows, logprobs": (64, dataclasses.replace(greedy(STEPS), top_logprobs=20)),
        "64 rows, everything": (64, EVERYTHING),
        "16 rows, a schema": (16, schema_params(steps.tokenizer)),
    }
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, (count, params) in cases.items():
            pairs[name] += steps.milliseconds(params, count)
    result = {
        name: {
            "greedy_ms": statistics.median(plain for plain, _ in measured),
            "ms": statistics.median(asked for _, asked in measured),
            "ratio": statistics.median(asked / plain for plain, asked in measured),
        }
        for name, measured in pairs.items()
    }
    rows = [[name, *figures.values()] for name, figures in result.items()]
    table("A decode step", ["rows", "greedy ms", "ms", "ratio"], rows)
    Report("sampling").add("steps", {"rounds": rounds, "cases": result})


if __name__ == "__main__":
    main()
