"""Whether the engine computes what the untouched model computes: log-probabilities of a fixed text, step by step.

The steps are those of serving: a prompt in chunks, prompts side by side, decoding of one row and of several, eagerly
and by every recording, and ahead of the host where the device runs so. Knows the runner's steps, not how they are
computed.
"""

import torch

from truss_model.engine.execution.ahead_check import gap_ahead
from truss_model.engine.execution.mixed_check import filling
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.execution.narrow_window import narrowed
from truss_model.engine.execution.reference import DECODES, Reference
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

GREEDY = SamplingParams(temperature=0.0)
# One for each kind of recorded sampling; the last draws, but only the likeliest token is left to draw.
WAYS = (GREEDY, SamplingParams(seed=0), SamplingParams(top_p=0.0, seed=0, top_logprobs=1))
BESIDE = 4  # tokens of a prompt that is computed beside rows that run ahead


class Mismatch(Exception):
    """A step's numbers are not the model's own."""

    def __init__(self, phase: str, gap: float, bar: float) -> None:
        super().__init__(f"log-probabilities differ by {gap:.3g} in {phase} (at most {bar:.3g} is rounding)")
        self.gap = gap


class SelfCheck:
    """One pass over a runner. Uses pages from the first on, so nothing else may hold any."""

    def __init__(self, runner: ModelRunner, reference: Reference) -> None:
        self._runner = runner
        self._limits = runner.limits
        self._reference = reference
        self._rows = self._make_rows(reference.lengths)
        self.bar = reference.bar(runner.precision)
        self.gap = 0.0  # the largest of all phases

    @torch.inference_mode()
    def check_eager(self) -> None:
        """Prefill and decode without recordings. Raises Mismatch, and what the model raises."""
        with narrowed(self._runner.model, self._reference.window), self._runner.without_recordings():
            self._check_eager()

    def _check_eager(self) -> None:
        first, *others = self._rows
        prompt = self._reference.lengths[0]
        cut = min(prompt // 2 + 3, prompt)
        for begin, end in ((0, cut), (cut, prompt)):
            for at in range(begin, end, self._limits.token_budget):
                self._prompt(first, at, min(at + self._limits.token_budget, end))
        plans = [[Chunk(row, 0, self._reference.lengths[row.index], samples=True)] for row in others]
        if sum(self._reference.lengths[1:]) < self._limits.token_budget:
            plans = [[chunk for plan in plans for chunk in plan]]
        plans[0:1] = [[self._decode(first, 0), *plans[0]]] if plans else [[self._decode(first, 0)]]
        self._compare("prompts beside a row that decodes", plans)
        self._check_decoding("")
        self._check_running_ahead("")

    @torch.inference_mode()
    def check_recordings(self) -> None:
        """Every recording, the pages filled as check_eager leaves them. Raises as that does."""
        if not self._runner.recording:
            return
        self._check_decoding(" by a recording")
        for size in self._runner.recorded_sizes:
            # Rows of the same text write the same numbers to the same slots.
            rows = [self._rows[i % len(self._rows)] for i in range(size)]
            plans = [[self._decode(_again(row, params), 1) for row in rows] for params in WAYS]
            self._compare(f"decoding {size} rows by a recording", plans)
        shapes = self._runner.recorded_shapes
        for shape in shapes:
            chunks = filling(shape, shapes, [self._decode(row, 1) for row in self._rows], self._rows, self._reference)
            if chunks:
                self._compare(f"{shape.tokens} tokens, rows that decode and prompts, by a recording", [chunks])
        self._check_running_ahead(" by a recording")

    def _check_decoding(self, how: str) -> None:
        first = self._rows[0]
        self._compare(f"decoding one row{how}", [[self._decode(first, 1 + step)] for step in range(DECODES)])
        several = [
            [self._decode(row, 1 + DECODES + step if row is first else step) for row in self._rows]
            for step in range(DECODES)
        ]
        self._compare(f"decoding {len(self._rows)} rows{how}", several)

    def _check_running_ahead(self, how: str) -> None:
        """Writes behind the prompts, which later steps write again before they read it."""
        if not self._runner.runs_ahead:
            return
        apart = self._rows if self._rows[0].pages[0] != self._rows[-1].pages[0] else self._rows[:1]
        prompts = [_again(row, GREEDY, self._reference.lengths[row.index] + 1) for row in apart]
        room = len(self._reference.tokens) - self._reference.lengths[0]
        for beside in [None, *self._prompts_beside()]:
            # At most max_rows rows, with the prompt's.
            going = prompts if beside is None else prompts[: self._limits.max_rows - 1]
            gap = gap_ahead(self._runner, going, room, beside) if going else 0.0
            if gap > 2 * self.bar.worst:
                phase = f"steps that are launched before the last one's tokens are read{how}"
                raise Mismatch(phase, gap, self.bar.worst)

    def _prompts_beside(self) -> list[Chunk]:
        """The start of the first row's prompt, which is written again; none where it has one token."""
        length = min(self._reference.lengths[0], BESIDE, self._limits.token_budget - len(self._rows))
        return [Chunk(_again(self._rows[0], GREEDY), 0, length, samples=False)] if length > 1 else []

    def _prompt(self, row: Row, begin: int, end: int) -> None:
        """A chunk of a prompt, with the logits of every position that is compared."""
        runner = self._runner
        batch = runner.pack(StepPlan([Chunk(row, begin, end - begin, samples=True)]))
        positions = [at for at in range(begin, end) if at in self._reference.positions]
        batch.sampled = torch.tensor(positions, dtype=torch.int64, device=runner.device) - begin
        self._judge("a prompt in chunks", [self._reference.gaps(runner.logits(batch), positions, self.bar)])

    def _decode(self, row: Row, step: int) -> Chunk:
        """The chunk of one token, `step` tokens behind the prompt's last one."""
        at = min(self._reference.lengths[row.index] + step, len(self._reference.tokens) - 1)
        return Chunk(row, at, 1, samples=True)

    def _compare(self, phase: str, plans: list[list[Chunk]]) -> None:
        """Run steps and judge them together."""
        found = []
        for chunks in plans:
            logits, tokens = self._runner.forward(StepPlan(chunks))
            positions = [chunk.start + chunk.length - 1 for chunk in chunks if chunk.samples]
            found.append(self._reference.gaps(logits, positions, self.bar))
            certain = all(chunk.row.params.greedy or chunk.row.params.top_p == 0 for chunk in chunks)
            if tokens is not None and certain and not _likeliest(tokens, logits):
                raise Mismatch(f"{phase}: its tokens", float("inf"), 0.0)
        self._judge(phase, found)

    def _judge(self, phase: str, found: list[torch.Tensor]) -> None:
        gaps = torch.cat(found)
        if not gaps.numel():
            return
        typical, worst = float(gaps.median()), float(gaps.max())
        self.gap = max(self.gap, typical)
        if typical > self.bar.typical:
            raise Mismatch(phase, typical, self.bar.typical)
        if worst > self.bar.worst:
            raise Mismatch(phase, worst, self.bar.worst)

    def _make_rows(self, lengths: list[int]) -> list[Row]:
        """Rows of the same text, each in pages of its own, or all in the same where there are few."""
        size, tokens = self._limits.page_size, self._reference.tokens
        counts = [-(-min(length + 2 * DECODES + 2, len(tokens)) // size) for length in lengths]
        shared = sum(counts) > self._limits.pages
        # In no order, as pages are after a while: what reads them in a row is found.
        order = sorted(range(min(sum(counts), self._limits.pages)), key=lambda page: (7 * page + 3) % 11)
        rows, begin = [], 0
        for index, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            pages = order[begin : begin + count]
            begin += 0 if shared else count
            params = SamplingParams(temperature=0.0)
            generation = Generation(length, 1, lambda *_: None)
            rows.append(Row(generation, index, list(tokens), length, params, 0, pages=pages))
        return rows


def _likeliest(tokens: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether each token is one of the most likely ones of its logits."""
    return torch.equal(logits.gather(1, tokens[:, None])[:, 0], logits.amax(-1))


def _again(row: Row, params: SamplingParams, tokens: int | None = None) -> Row:
    """The same sequence once more, or its first tokens."""
    held, prompt = (row.tokens, row.prompt_tokens) if tokens is None else (row.tokens[:tokens], tokens)
    return Row(row.generation, row.index, held, prompt, params, 0, pages=row.pages)
