"""Logits -> next tokens, all rows of a step at once. Knows rows' parameters and histories, nothing of the model.

Order of operations: logprobs of the model's own distribution; repetition, presence and frequency penalties; logit bias;
min_tokens; grammar masks; then greedy rows take the maximum, and the others temperature, top_k, top_p, min_p (in this
order, as transformers does) and one uniform number of the row's own generator, by inversion of the cumulated
distribution: a seeded row draws the same numbers alone and in a batch. A step in which no row asks for anything costs
one argmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from truss_model.engine.generation import TokenLogprob
from truss_model.engine.row import Row

TOP_CANDIDATES = 1024  # top_k and top_p look at so many first; a flatter distribution is sorted whole
OFF = float("-inf")


@dataclass(slots=True)
class Sampled:
    """One token a row, and its logprobs where the row asked for them."""

    tokens: list[int]
    logprobs: list[TokenLogprob | None]


class Choice:
    """Tokens on the device, on their way to the host. `result` waits for them."""

    def __init__(
        self, tokens: torch.Tensor, rows: Sequence[Row] = (), at: Sequence[int] = (), raw: torch.Tensor | None = None
    ) -> None:
        """rows: those at `at` among all that want logprobs; raw: their log-softmax [len(at), vocab]."""
        self.tokens = tokens
        self._rows, self._at = rows, at
        parts = [tokens]
        if raw is not None:
            parts.append(raw.gather(1, tokens[list(at)][:, None])[:, 0])
            parts += raw.topk(max(1, *(row.params.top_logprobs or 0 for row in rows)), -1)
        self._parts = [part.to("cpu", non_blocking=True) for part in parts]
        self._copied = torch.cuda.Event() if tokens.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def result(self) -> Sampled:
        if self._copied is not None:
            self._copied.synchronize()
        chosen, *entries = (part.tolist() for part in self._parts)
        logprobs: list[TokenLogprob | None] = [None] * len(chosen)
        for at, row, own, values, ids in zip(self._at, self._rows, *entries, strict=True) if entries else ():
            most = row.params.top_logprobs or 0
            logprobs[at] = TokenLogprob(own, tuple(zip(ids, values, strict=True))[:most])
        return Sampled(chosen, logprobs)


class Sampler:
    """Stateless but for constants of the model: vocabulary size and end-of-sequence tokens."""

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self._eos = sorted(eos_token_ids)

    def __call__(self, logits: torch.Tensor, rows: Sequence[Row]) -> Sampled:
        return self.choose(logits, rows).result()

    def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> Choice:
        """logits: [S, vocab], any float dtype, row i of `rows` at i. Advances the rows' random generators."""
        wanting = [i for i, row in enumerate(rows) if row.params.top_logprobs is not None]
        raw = torch.log_softmax(logits[wanting].float(), -1) if wanting else None
        processed = self._process(logits, rows)
        tokens = processed.argmax(-1)
        drawing = [i for i, row in enumerate(rows) if not row.params.greedy]
        if drawing:
            tokens[drawing] = self._draw(processed, drawing, [rows[i] for i in drawing])
        return Choice(tokens, [rows[i] for i in wanting], wanting, raw)

    def _process(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        special = [i for i, row in enumerate(rows) if _needs_processing(row)]
        if not special:
            return logits
        logits = logits.float() if logits.dtype != torch.float32 else logits.clone()
        _penalise(logits, [(i, rows[i]) for i in special])
        _add_bias(logits, [(i, rows[i]) for i in special])
        # A grammar says itself when an answer may end, and may leave nothing but the end.
        free = [i for i in special if rows[i].constraint is None]
        early = [i for i in free if rows[i].generated < rows[i].params.min_tokens]
        if early and self._eos:
            logits[torch.tensor(early)[:, None], torch.tensor(self._eos)] = OFF
        _mask(logits, [(i, rows[i]) for i in special])
        return logits

    def _draw(self, logits: torch.Tensor, at: list[int], rows: list[Row]) -> torch.Tensor:
        device = logits.device
        uniform = torch.tensor([row.random.random() for row in rows], dtype=torch.float64, device=device)
        scores = logits[at].float()
        scores = scores / torch.tensor([[row.params.temperature] for row in rows], device=device)
        sorted_rows = [j for j, row in enumerate(rows) if _needs_order(row)]
        plain = [j for j in range(len(rows)) if j not in set(sorted_rows)] if sorted_rows else list(range(len(rows)))
        tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
        if plain:
            tokens[plain] = _invert(_cut_min_p(scores[plain], [rows[j] for j in plain]), uniform[plain])
        if sorted_rows:
            ordered, ids = _order(scores[sorted_rows], [rows[j] for j in sorted_rows])
            choice = _invert(_cut_min_p(ordered, [rows[j] for j in sorted_rows]), uniform[sorted_rows])
            tokens[sorted_rows] = ids.gather(1, choice[:, None])[:, 0]
        return tokens


def plain(row: Row) -> bool:
    """Whether `draw_plain` is all that the row's next token needs."""
    return not _needs_processing(row) and not _needs_order(row) and row.params.top_logprobs is None


def plain_draws(rows: Sequence[Row]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """What `draw_plain` wants to know of the rows; advances their random generators."""
    draws = np.zeros((3, len(rows)))
    for i, row in enumerate(rows):
        if not row.params.greedy:
            draws[:, i] = row.random.random(), row.params.temperature, row.params.min_p
    return draws


def draw_plain(logits: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Tokens of rows that are all plain, the same as a Sampler chooses, without a word from the host.

    draws: float64 [3, rows], the uniform number, the temperature (0: greedy) and min_p.
    """
    uniform, temperature, min_p = draws[0], draws[1].float()[:, None], draws[2].float()[:, None]
    greedy = temperature == 0
    scores = logits.float() / temperature.masked_fill(greedy, 1.0)
    least = min_p.clamp_min(1e-30).log()
    scores = scores.masked_fill(scores < scores.amax(-1, keepdim=True) + least, OFF)
    return torch.where(greedy[:, 0], logits.argmax(-1), _invert(scores, uniform))


def _needs_processing(row: Row) -> bool:
    p = row.params
    return bool(
        p.presence_penalty
        or p.frequency_penalty
        or p.repetition_penalty != 1.0
        or p.logit_bias
        or row.generated < p.min_tokens
        or row.constraint is not None
    )


def _needs_order(row: Row) -> bool:
    return row.params.top_k > 0 or row.params.top_p < 1.0


def _penalise(logits: torch.Tensor, rows: list[tuple[int, Row]]) -> None:
    """OpenAI: logit -= count * frequency + (count > 0) * presence; HF: logit / r if positive, else * r."""
    vocab, device = logits.shape[1], logits.device
    repeating = [(i, row) for i, row in rows if row.params.repetition_penalty != 1.0]
    if repeating:
        at = torch.tensor([i for i, _ in repeating], device=device)
        factor = torch.tensor([[row.params.repetition_penalty] for _, row in repeating], device=device)
        seen = torch.stack([_history(row, 0, vocab, device) for _, row in repeating]) > 0
        values = logits[at]
        logits[at] = torch.where(seen, torch.where(values > 0, values / factor, values * factor), values)
    counting = [(i, row) for i, row in rows if row.params.presence_penalty or row.params.frequency_penalty]
    if counting:
        at = torch.tensor([i for i, _ in counting], device=device)
        presence = torch.tensor([[row.params.presence_penalty] for _, row in counting], device=device)
        frequency = torch.tensor([[row.params.frequency_penalty] for _, row in counting], device=device)
        counts = torch.stack([_history(row, row.prompt_tokens, vocab, device) for _, row in counting])
        logits[at] -= counts * frequency + (counts > 0) * presence


def _history(row: Row, begin: int, vocab: int, device: torch.device) -> torch.Tensor:
    """How often each token stands in row.tokens[begin:], float32 [vocab]; kept on the row and fed only what is new."""
    counts, upto = row.histories.get(begin) or (torch.zeros(vocab, device=device), begin)
    new = torch.tensor(row.tokens[upto:], dtype=torch.int64, device=device)
    counts.index_add_(0, new, torch.ones(len(new), device=device))
    row.histories[begin] = (counts, len(row.tokens))
    return counts


def _add_bias(logits: torch.Tensor, rows: list[tuple[int, Row]]) -> None:
    entries = [(i, token, bias) for i, row in rows for token, bias in row.params.logit_bias.items()]
    if entries:
        at, tokens, biases = zip(*entries, strict=True)
        device = logits.device
        index = (torch.tensor(at, device=device), torch.tensor(tokens, device=device))
        logits.index_put_(index, torch.tensor(biases, device=device), accumulate=True)


def _mask(logits: torch.Tensor, rows: list[tuple[int, Row]]) -> None:
    constrained = [(i, row, row.constraint) for i, row in rows if row.constraint is not None]
    if not constrained:
        return
    vocab = logits.shape[1]
    words = np.zeros((len(constrained), -(-vocab // 32)), np.int32)
    for bits, (_, row, constraint) in zip(words, constrained, strict=True):
        try:
            constraint.fill(bits)
        except Exception as error:  # fails this row alone, once its token is here
            row.fault = error
            bits[:] = -1
    allowed = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :vocab]
    at = torch.tensor([i for i, _, _ in constrained], device=logits.device)
    forbidden = torch.from_numpy(allowed == 0).to(logits.device)
    logits[at] = logits[at].masked_fill(forbidden, OFF)


def _order(scores: torch.Tensor, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores in falling order, cut by top_k and top_p, and their token ids; both [n, candidates]."""
    vocab = scores.shape[1]
    device = scores.device
    top_k = torch.tensor([min(row.params.top_k or vocab, vocab) for row in rows], device=device)
    top_p = torch.tensor([[row.params.top_p] for row in rows], device=device)
    for candidates in (min(TOP_CANDIDATES, vocab), vocab):
        ordered, ids = scores.topk(candidates, -1)
        rank = torch.arange(candidates, device=device)
        kept = ordered.masked_fill(rank >= top_k[:, None], OFF)
        # What top_p is a share of: the tokens that top_k leaves, all of them where it leaves more than we look at.
        whole = torch.where(
            top_k[:, None] <= candidates, kept.logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True)
        )
        shares = (kept - whole).exp()
        before = shares.cumsum(-1) - shares
        enough = (top_k[:, None] <= candidates) | ((before + shares)[:, -1:] >= top_p)
        if candidates == vocab or bool(enough.all()):
            break
    first = rank == 0  # the likeliest token stays whatever top_p says
    return kept.masked_fill((before >= top_p) & ~first & (top_p < 1.0), OFF), ids


def _cut_min_p(scores: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """min_p: drop what is less likely than min_p times the likeliest."""
    if not any(row.params.min_p for row in rows):
        return scores
    least = torch.tensor([[max(row.params.min_p, 1e-30)] for row in rows], device=scores.device).log()
    return scores.masked_fill(scores < scores.amax(-1, keepdim=True) + least, OFF)


def _invert(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index of the first entry whose cumulated probability exceeds the uniform number; float64, [n]."""
    cumulated = (scores - scores.amax(-1, keepdim=True)).double().exp().cumsum(-1)
    target = uniform[:, None] * (1 - 1e-12) * cumulated[:, -1:]  # never the whole sum: what follows may be masked
    return torch.searchsorted(cumulated, target, right=True)[:, 0].clamp_max(scores.shape[1] - 1)
