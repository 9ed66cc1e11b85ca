"""Plans steps and gives rows their pages: admission, chunked prefill beside decode, preemption. Knows no tensors.

Every row that decodes gets one token in every step, unless it is preempted for lack of pages; the rest of the token
budget goes to prompts, in order of admission. A prompt longer than `long_prefill` gets small chunks while other rows
decode, so that their next token comes within STRETCH of a plain decode step, and prompts behind it need not wait; a
short one may delay them by LONGEST_STALL per step.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from truss_model.engine.generation import Generation
from truss_model.engine.scheduling.kv_cache import ROOT, OutOfPages, PagePool, Prefix
from truss_model.engine.scheduling.row import PENDING, Row, RowStatus

STRETCH = 2.2
LONGEST_STALL = 0.25  # seconds
SMALLEST_CHUNK = 8
SCORED_PER_STEP = 128  # prompt tokens whose log probabilities one step computes: it holds their logits at once


class Chunk(NamedTuple):
    """Tokens start .. start + length - 1 of a row go through the model; `samples`: the last one's logits are sampled.

    A tuple: one is made for every row of every step.
    """

    row: Row
    start: int
    length: int
    samples: bool

    @property
    def scored(self) -> range:
        """Positions in the row whose logits give a missing log probability of the next prompt token."""
        row = self.row
        if not row.scores_prompt:
            return range(0)
        return range(max(self.start, row.scored), min(self.start + self.length, row.prompt_tokens - 1))


@dataclass(slots=True)
class StepPlan:
    """`copies` (source, target) of pages come before the forward; all sources are read before a target is written."""

    chunks: list[Chunk] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[Row] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(chunk.length for chunk in self.chunks)


@dataclass(slots=True)
class StepCosts:
    """Moving averages in seconds: a step that only decodes, and what each prompt token adds."""

    decode_step: float = 0.05
    prefill_token: float = 0.001

    def observe(self, plan: StepPlan, seconds: float) -> None:
        prompt = sum(chunk.length for chunk in plan.chunks if chunk.length > 1)
        if prompt == 0:
            self.decode_step += 0.2 * (seconds - self.decode_step)
        else:
            decode = self.decode_step if len(plan.chunks) > 1 else 0.0
            per_token = max(seconds - decode, 0.2 * seconds) / prompt
            self.prefill_token += 0.2 * (per_token - self.prefill_token)

    @property
    def bearable_chunk(self) -> int:
        """Prompt tokens that delay rows that decode by no more than LONGEST_STALL."""
        return max(SMALLEST_CHUNK, int(LONGEST_STALL / self.prefill_token))

    @property
    def gentle_chunk(self) -> int:
        """Prompt tokens that stretch a decode step by no more than STRETCH."""
        return max(SMALLEST_CHUNK, int((STRETCH - 1) * self.decode_step / self.prefill_token))


class Scheduler:
    """Rows that wait and rows that run, over one page pool. One thread only."""

    def __init__(self, pool: PagePool, *, max_rows: int, token_budget: int, long_prefill: int) -> None:
        self.pool = pool
        self.max_rows = max_rows
        self.token_budget = token_budget
        self.long_prefill = long_prefill
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self.costs = StepCosts()
        self.preemptions = 0

    def add(self, row: Row) -> None:
        self.waiting.append(row)

    def plan(self) -> StepPlan:
        """The next step; empty when nothing can run."""
        plan = StepPlan()
        self._plan_decode(plan)
        self._admit(plan)
        self._plan_prefill(plan)
        return plan

    def drop(self, row: Row) -> None:
        """Free the pages of a finished, cancelled or failed row and remove it, in this order: other threads that find
        no row find its pages free. The prefix index keeps what it computed."""
        if row.ended:
            return
        place = self.waiting if row.status is RowStatus.WAITING else self.running
        if place is self.running:
            self._publish_tail(row)
        row.status = RowStatus.ENDED
        self._release(row)
        place.remove(row)

    def discard(self, row: Row) -> None:
        """Drop a row whose step failed. Its newest pages may hold anything: none of them is published."""
        row.computed = row.published * self.pool.page_size
        self.drop(row)

    @staticmethod
    def launched(plan: StepPlan) -> int:
        """Record that the plan's KV will be in the pages before any later step reads them; rows that get a token have
        it PENDING. Returns the tokens of prompts among it."""
        prompts = 0
        for row, start, length, samples in plan.chunks:
            row.computed = start + length
            if start < row.prompt_tokens:
                row.scored = max(row.scored, min(row.computed, row.prompt_tokens - 1))
                prompts += length if row.generated == 0 else 0
            if samples:
                tokens = row.tokens
                tokens.append(PENDING)
                last = len(tokens) - row.prompt_tokens >= row.params.max_tokens
                row.status = RowStatus.LAST_TOKEN if last else RowStatus.DECODE
        return prompts

    def computed(self, plan: StepPlan) -> None:
        """Record that the launched plan's KV is in the pages, and publish whole pages in the prefix index."""
        size = self.pool.page_size
        for row, start, length, _ in plan.chunks:
            while (row.published + 1) * size <= start + length and not row.ended:
                at = row.published
                row.digest = self.pool.publish(row.pages[at], row.digest, row.tokens[at * size : (at + 1) * size])
                row.published += 1

    def _plan_decode(self, plan: StepPlan) -> None:
        for row in list(self.running):
            # An older row of this loop may have preempted this one: it is WAITING then.
            if row.status is RowStatus.DECODE and self._grow(row, len(row.tokens)):
                plan.chunks.append(Chunk(row, row.computed, 1, True))

    def _plan_prefill(self, plan: StepPlan) -> None:
        budget = self.token_budget - len(plan.chunks)
        if plan.chunks:
            budget = min(budget, self.costs.bearable_chunk)
        prompts = [row for row in self.running if row.status is RowStatus.PREFILL]
        long = [row for row in prompts if row.long_prefill]
        short = [row for row in prompts if not row.long_prefill]
        gentle = min(budget, self.costs.gentle_chunk) if plan.chunks or short else budget
        scorable = SCORED_PER_STEP
        for row in long[:1] + short + long[1:]:
            count = min(row.remaining, gentle if row.long_prefill else budget, budget)
            if count <= 0:
                break
            if row.scores_prompt:
                count = min(count, scorable)
                scorable -= count
                if count == 0:
                    continue
            plan.chunks.append(Chunk(row, row.computed, count, samples=count == row.remaining))
            budget -= count

    def _admit(self, plan: StepPlan) -> None:
        while self.waiting and len(self.running) < self.max_rows:
            row = self._next_waiting()
            if row is None or not self._allocate(row, plan):
                return
            self.waiting.remove(row)
            row.status = RowStatus.PREFILL
            row.admissions += 1
            self.running.append(row)
            plan.admitted.append(row)

    def _next_waiting(self) -> Row | None:
        """Preempted rows first; then the request with the fewest rows running: n = 128 must not keep others out."""
        running: dict[Generation, int] = {}
        for row in self.running:
            running[row.generation] = running.get(row.generation, 0) + 1
        ready = [row for row in self.waiting if row.leader is None or self._leader_done(row)]
        return min(
            ready,
            key=lambda row: (row.admissions == 0, running.get(row.generation, 0), row.arrival, row.index),
            default=None,
        )

    @staticmethod
    def _leader_done(row: Row) -> bool:
        leader = row.leader
        return leader is None or leader.ended or leader.computed >= row.prompt_tokens

    def _allocate(self, row: Row, plan: StepPlan) -> bool:
        """Give a waiting row pages for all its tokens, shared where known. False if there are too few."""
        size = self.pool.page_size
        leader, row.leader = row.leader, None
        shareable = leader is not None and not leader.ended and leader.computed >= row.prompt_tokens
        if leader is not None and shareable and row.generated == 0:
            whole = (row.prompt_tokens - 1) // size
            shared, digest = leader.pages[:whole], ROOT
            source: int | None = leader.pages[whole]
            partial = (row.prompt_tokens - 1) % size
            for page in shared:
                self.pool.hold(page)
        else:
            # Cached pages have no logits.
            prefix = Prefix([], ROOT) if row.scores_prompt else self.pool.match(row.tokens)
            shared, digest, source, partial = prefix.pages, prefix.digest, prefix.source, prefix.partial
        needed = -(-len(row.tokens) // size) - len(shared)
        reserve = len(self.running)  # one page of growth for each, or the new row would be preempted at once
        if self.pool.available < needed + (reserve if self.running else 0):
            self.pool.release(shared)
            row.leader = leader
            return False
        row.pages = list(shared)
        row.computed = len(shared) * size
        row.published, row.digest = (len(shared), digest) if digest else (0, ROOT)
        if source is not None and partial:
            target = self.pool.allocate()
            plan.copies.append((source, target))
            row.pages.append(target)
            row.computed += partial
        while len(row.pages) * size < len(row.tokens):
            row.pages.append(self.pool.allocate())
        row.long_prefill = row.remaining > self.long_prefill
        return True

    def _grow(self, row: Row, tokens: int) -> bool:
        """Allocate pages for `tokens`, preempting the newest rows if needed. False if this row itself was preempted."""
        while len(row.pages) * self.pool.page_size < tokens:
            try:
                row.pages.append(self.pool.allocate())
            except OutOfPages:
                victim = self.running[-1]
                self._preempt(victim)
                if victim is row:
                    return False
        return True

    def _preempt(self, row: Row) -> None:
        self.preemptions += 1
        self.running.remove(row)
        self._publish_tail(row)
        self._release(row)
        row.status = RowStatus.WAITING
        self.waiting.appendleft(row)

    def _publish_tail(self, row: Row) -> None:
        rest = row.tokens[row.published * self.pool.page_size : row.computed]
        if rest and row.published < len(row.pages):
            self.pool.publish(row.pages[row.published], row.digest, rest[: self.pool.page_size])

    def _release(self, row: Row) -> None:
        self.pool.release(row.pages)
        row.pages, row.computed, row.published, row.digest = [], 0, 0, ROOT
