"""The next token of one row, straight from the definitions: no tensors, no batch, everything sorted."""

import random
from collections import Counter

import numpy as np
import numpy.typing as npt

from truss_model.engine.scheduling.row import Row

Floats = npt.NDArray[np.float32]


def next_token(logits: Floats, row: Row, eos: frozenset[int]) -> int:
    """logits: float32 [vocab]. Draws by a copy of the row's generator."""
    p = row.params
    scores = _processed(logits, row, eos)
    if p.greedy:
        return int(scores.argmax())
    copy = random.Random()
    copy.setstate(row.random.getstate())
    uniform = copy.random()
    scores = scores / np.float32(p.temperature)
    ids = list(range(len(scores)))
    shares = {i: float(np.exp(np.float64(scores[i] - scores.max()))) for i in ids}
    if p.top_k > 0 or p.top_p < 1:
        ids.sort(key=lambda i: -scores[i])  # stable: equal scores stay in the order of the ids
        ids = ids[: p.top_k] if p.top_k else ids
        whole, before, kept = sum(shares[i] for i in ids), 0.0, []
        for i in ids:
            if kept and p.top_p < 1 and before >= p.top_p * whole:
                break
            kept.append(i)
            before += shares[i]
        ids = kept
    if p.min_p:
        least = scores.max() + np.log(np.float32(p.min_p))
        ids = [i for i in ids if scores[i] >= least]
    whole, upto = sum(shares[i] for i in ids), 0.0
    for i in ids:
        upto += shares[i]
        if upto > uniform * whole * (1 - 1e-12):
            return i
    raise AssertionError("The sum of all shares exceeds every part of it.")


def logprobs(logits: Floats) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())


def _processed(logits: Floats, row: Row, eos: frozenset[int]) -> Floats:
    p, one = row.params, np.float32
    scores = logits.copy()
    for token in set(row.tokens):
        factor = one(p.repetition_penalty)
        scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
    for token, count in Counter(row.tokens[row.prompt_tokens :]).items():
        scores[token] -= one(count) * one(p.frequency_penalty) + one(p.presence_penalty)
    for token, bias in p.logit_bias.items():
        scores[token] += one(bias)
    if row.constraint is not None:
        words = np.zeros(-(-len(scores) // 32), np.int32)
        row.constraint.fill(words)
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(scores)]
        scores[allowed == 0] = -np.inf
    elif row.generated < p.min_tokens:
        scores[sorted(eos)] = -np.inf
    return scores
