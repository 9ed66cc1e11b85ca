"""Log probabilities of prompt tokens, from the logits at the tokens before them. Knows rows, nothing of the model."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from truss_model.engine.execution.batch import to_device
from truss_model.engine.generation import PromptScore
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk


class PendingScores:
    """Scores on the device, on their way to the host. `result` waits for them."""

    def __init__(self, logits: torch.Tensor, chunks: Sequence[Chunk]) -> None:
        """logits: [P, vocab], at the positions `chunk.scored` of all chunks one after another."""
        self._counts = [(chunk.row, len(chunk.scored)) for chunk in chunks if chunk.scored]
        targets = [chunk.row.tokens[position + 1] for chunk in chunks for position in chunk.scored]
        logprobs = torch.log_softmax(logits.float(), -1)
        own = logprobs.gather(1, to_device(np.array(targets, np.int64), logits.device)[:, None])
        ranks = (logprobs > own).sum(-1) + 1
        values, ids = logprobs.topk(max(1, *(row.params.prompt_logprobs or 0 for row, _ in self._counts)), -1)
        self._parts = [part.to("cpu", non_blocking=True) for part in (own[:, 0], ranks, values, ids)]
        self._copied = torch.cuda.Event() if logits.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def result(self) -> list[tuple[Row, list[PromptScore]]]:
        """The scores of each row's next prompt tokens."""
        if self._copied is not None:
            self._copied.synchronize()
        entries = zip(*(part.tolist() for part in self._parts), strict=True)
        return [(row, [_score(row, *entry) for entry in islice(entries, count)]) for row, count in self._counts]


def _score(row: Row, logprob: float, rank: int, values: list[float], ids: list[int]) -> PromptScore:
    return PromptScore(logprob, rank, tuple(zip(ids, values, strict=True))[: row.params.prompt_logprobs or 0])
