"""Steps that are launched before the host has the tokens of the one before, beside the same steps one after another.

Both decode greedily from the same prompts; the rows change places at every step, so that each must find its token.
"""

import torch

from truss_model.engine.execution.model_runner import ModelRunner, RunningStep
from truss_model.engine.scheduling.row import PENDING, Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

STEPS = 3


def gap_ahead(runner: ModelRunner, prompts: list[Row], room: int, beside: Chunk | None = None) -> float:
    """By how much a token that was chosen ahead is less likely than the likeliest; the largest of all.

    prompts: rows whose KV is there but for the last token's. room: tokens that each may grow.
    beside: of a prompt, computed again in every step.
    """
    count = min(STEPS, room)
    likely = one_after_another(runner, prompts, count, beside)
    chosen = ahead(runner, prompts, count, beside)
    gap = 0.0
    for logprobs, tokens in zip(likely, chosen, strict=True):
        ids = torch.tensor(tokens, device=logprobs.device)
        gap = max(
            gap, float((logprobs.amax(-1) - logprobs.gather(1, ids[:, None])[:, 0]).nan_to_num(float("inf")).max())
        )
        if not torch.equal(ids, logprobs.argmax(-1)):
            break  # tokens as likely as each other: from here on the two go different ways
    return gap


def one_after_another(runner: ModelRunner, prompts: list[Row], count: int, beside: Chunk | None) -> list[torch.Tensor]:
    """Log-probabilities [rows, vocab] of each step."""
    rows, found = [_copy(row) for row in prompts], []
    for step in range(count):
        plan = _plan(rows, step, beside)
        logits, _ = runner.forward(plan)
        found.append(logits.float().log_softmax(-1))
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        for chunk, token in zip(sampling, found[-1].argmax(-1).tolist(), strict=True):
            chunk.row.tokens.append(token)
    return found


def ahead(runner: ModelRunner, prompts: list[Row], count: int, beside: Chunk | None) -> list[list[int]]:
    """The tokens of each step, each launched before the last one's are read."""
    rows, found = [_copy(row) for row in prompts], []
    running: RunningStep | None = None
    for step in range(count):
        launched = runner.launch(_plan(rows, step, beside), running)
        for row in rows:
            row.tokens.append(PENDING)
        if running is not None:
            found.append(_read(running))
        running = launched
    return found if running is None else [*found, _read(running)]


def _read(step: RunningStep) -> list[int]:
    tokens = step.result().tokens
    for chunk, token in zip(step.sampling, tokens, strict=True):
        chunk.row.tokens[chunk.start + 1] = token
    return tokens


def _plan(rows: list[Row], step: int, beside: Chunk | None) -> StepPlan:
    turned = rows[step % len(rows) :] + rows[: step % len(rows)]
    chunks = [Chunk(row, len(row.tokens) - 1, 1, samples=True) for row in turned]
    return StepPlan(chunks if beside is None else [*chunks, beside])


def _copy(row: Row) -> Row:
    return Row(row.generation, row.index, [*row.tokens], row.prompt_tokens, row.params, 0, pages=row.pages)
