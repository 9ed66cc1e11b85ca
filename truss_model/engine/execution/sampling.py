"""Logits -> next tokens of all rows of a step, in tensors alone: no number of them comes to the host.

Order of operations: logprobs of the model's own distribution; repetition, presence and frequency penalties; logit bias;
min_tokens; grammar masks; then greedy rows take the maximum, and the others temperature, top_k, top_p, min_p (in this
order, as transformers does) and one uniform number, by inversion of the cumulated distribution: in falling order of the
scores (equal ones: the lower id first) if the row has top_k or top_p, else in the order of the ids.

Probabilities are float64: with float32 ones a seed would give other tokens on other devices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from truss_model.engine.execution.sampling_state import IN_PROMPT, NUMBERS, Kind, SamplingState
from truss_model.engine.execution.step_fields import StepFields

MOST_LOGPROBS = 20
OFF = float("-inf")
SCALE = 1 - 1e-12  # of the uniform number: the whole sum is never looked for, what follows it may be masked
AT_ONCE = 1 << 22  # logits: drawing takes 60 to 90 bytes for each, twice where it is recorded


@dataclass(slots=True)
class Choice:
    """tokens: int64 [rows]. Of Kind.ALL: `own`, float32 [rows], the tokens' logprobs, and the most likely ones in
    falling order, `top` float32 [rows, MOST_LOGPROBS] and `ids` int64; undefined beyond those that a row wants."""

    tokens: torch.Tensor
    own: torch.Tensor | None = None
    top: torch.Tensor | None = None
    ids: torch.Tensor | None = None


Sample = Callable[[Kind, torch.Tensor, SamplingState, StepFields], Choice]


def torch_sample(
    kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields, at_once: int = AT_ONCE
) -> Choice:
    """logits: [rows, vocab], any float dtype, not changed; row i is described by entry i of the fields. Rows are drawn
    for in groups of at most at_once logits, or one by one, so that large vocabularies leave memory for the KV cache."""
    if kind is Kind.GREEDY:
        return Choice(logits.argmax(-1))
    some, made = max(1, at_once // logits.shape[1]), list[Choice]()
    for first in range(0, len(logits), some):
        made.append(_sample_some(kind, logits[first : first + some], state, fields, first))
    if len(made) == 1:
        return made[0]
    columns = zip(*((one.tokens, one.own, one.top, one.ids) for one in made), strict=True)
    return Choice(*(torch.cat(column) for column in columns if column[0] is not None))


def _sample_some(kind: Kind, logits: torch.Tensor, state: SamplingState, fields: StepFields, first: int) -> Choice:
    """For the rows from `first` on."""
    slots, uniform = fields.lines["row"][first : first + len(logits)], fields.uniform[first : first + len(logits)]
    numbers = _numbers(state, slots)
    if kind is Kind.DRAW:
        return Choice(_draw(logits, numbers, uniform))
    raw = torch.log_softmax(logits.float(), -1)
    processed = process(logits, state, fields, first)
    tokens = _draw_in_order(processed, numbers, uniform)
    # Not index_put_: it sorts the indices first, and in some versions of torch reads the largest one on the host.
    places = slots.long() * state.vocab + tokens
    state.counts.view(-1).scatter_add_(0, places, numbers["counted"][:, 0].int())
    top, ids = raw.topk(min(MOST_LOGPROBS, raw.shape[1]), -1)
    return Choice(tokens, raw.gather(1, tokens[:, None])[:, 0], top, ids)


def process(logits: torch.Tensor, state: SamplingState, fields: StepFields, first: int = 0) -> torch.Tensor:
    """The logits that are drawn from, float32: OpenAI's penalties, logit -= count * frequency + (count > 0) * presence,
    HF's, logit / r if positive, else * r; bias; no end before min_tokens; what the grammars allow."""
    rows, vocab = logits.shape
    slots, context, mask = (fields.lines[name][first : first + rows] for name in ("row", "context", "mask"))
    numbers = _numbers(state, slots)
    seen = state.counts.index_select(0, slots) * (numbers["counted"] > 0)
    counts, factor = seen % IN_PROMPT, numbers["repetition"]
    logits = logits.float()
    logits = torch.where(seen > 0, torch.where(logits > 0, logits / factor, logits * factor), logits)
    logits = logits - (counts * numbers["frequency"] + (counts > 0) * numbers["presence"])
    logits = logits + torch.where(numbers["biased"] > 0, state.bias.index_select(0, slots), 0.0)
    if len(state.eos):
        ends = state.eos.expand(rows, -1)
        early = context[:, None] < numbers["min_length"]
        logits.scatter_(1, ends, logits.gather(1, ends).masked_fill(early, OFF))
    words = state.masks.index_select(0, mask.clamp_min(0))
    bits = words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=logits.device) & 1
    forbidden = bits.flatten(1)[:, :vocab] == 0
    return logits.masked_fill_(forbidden & (mask >= 0)[:, None], OFF)


def _numbers(state: SamplingState, slots: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each of NUMBERS as [rows, 1]."""
    return dict(zip(NUMBERS, state.numbers.index_select(0, slots)[:, :, None].unbind(1), strict=True))


def _draw(logits: torch.Tensor, numbers: dict[str, torch.Tensor], uniform: torch.Tensor) -> torch.Tensor:
    """Tokens by temperature and min_p, greedy where the temperature is 0; [rows]."""
    scores = logits.float() / numbers["temperature"].masked_fill(numbers["temperature"] == 0, 1.0)
    highest, likeliest = scores.max(-1, keepdim=True)
    scores = scores.masked_fill_(scores < highest + numbers["least"], OFF)
    drawn = _invert((scores - highest).double().exp_(), uniform)
    return torch.where(_certain(numbers, highest), likeliest[:, 0], drawn)


def _draw_in_order(logits: torch.Tensor, numbers: dict[str, torch.Tensor], uniform: torch.Tensor) -> torch.Tensor:
    """The same with top_k and top_p before min_p; rows that have neither are drawn for in the order of the ids."""
    scores = logits / numbers["temperature"].masked_fill(numbers["temperature"] == 0, 1.0)
    top_k = torch.where(numbers["top_k"] > 0, numbers["top_k"], -OFF)
    ordered = (numbers["top_k"] > 0) | (numbers["top_p"] < 1)
    rank = torch.arange(scores.shape[1], device=scores.device)
    falling, ids = scores.sort(dim=-1, descending=True, stable=True)
    highest, likeliest = falling[:, :1].clone(), ids[:, 0].clone()
    scores = torch.where(ordered, falling, scores)
    ids = torch.where(ordered, ids, rank)
    del falling
    shares = (scores - highest).double().exp_().masked_fill_(rank >= top_k, 0.0)
    upto = shares.cumsum(-1)
    cut = (upto - shares >= numbers["top_p"].double() * upto[:, -1:]) & (numbers["top_p"] < 1)
    cut &= rank > 0  # the likeliest token stays whatever top_p says
    shares.masked_fill_(cut | (scores < highest + numbers["least"]), 0.0)
    drawn = ids.gather(1, _invert(shares, uniform)[:, None])[:, 0]
    return torch.where(_certain(numbers, highest), likeliest, drawn)


def _certain(numbers: dict[str, torch.Tensor], highest: torch.Tensor) -> torch.Tensor:
    """Whether the likeliest token is taken: of greedy rows, and where shares are not numbers as the highest score is
    infinite (an overflow, or a mask that forbids everything); [rows]."""
    return (numbers["temperature"][:, 0] == 0) | ~highest[:, 0].isfinite()


def _invert(shares: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index of the first entry whose cumulated share exceeds the uniform number's part of the whole; [rows]."""
    upto = shares.cumsum(-1)
    target = uniform[:, None] * SCALE * upto[:, -1:]
    return torch.searchsorted(upto, target, right=True)[:, 0].clamp_max(shares.shape[1] - 1)
