# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Log-probabilities of the model's own distribution: of the token, and of as many of the likeliest as a row wants."""

import triton
import triton.language as tl

from truss_model.engine.execution.cuda.scores import LOGPROBS
from truss_model.engine.execution.cuda.shares import NO_TOKEN, id_of, ranked, value_of


# Groups of rows begin anywhere: no reason to compile again.
@triton.jit(do_not_specialize=["parts"], do_not_specialize_on_alignment=["slots", "tokens", "own", "top", "top_ids"])
def logprobs(
    logits, numbers, slots, raw_highest, raw_sums, tokens, own, top, top_ids, logits_row, parts,
    VOCAB: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """A program a row. Takes the likeliest token of all blocks, MOST times, and looks for the next one of its block."""
    row = tl.program_id(0).to(tl.int64)
    numbers += tl.load(slots + row).to(tl.int64) * NUMBERS
    wanted = tl.load(numbers + LOGPROBS)
    if wanted >= 0:
        part, at = tl.arange(0, PARTS), tl.arange(0, BLOCK)
        there = part < parts
        line = logits + row * logits_row
        high = tl.load(raw_highest + row * parts + part, mask=there, other=NO_TOKEN)
        sum_ = tl.load(raw_sums + row * parts + part, mask=there, other=0.0)
        highest = value_of(tl.max(high, 0))
        whole = highest + tl.log(tl.sum(tl.where(sum_ > 0, sum_ * tl.exp(value_of(high) - highest), 0.0), 0))
        tl.store(own + row, tl.load(line + tl.load(tokens + row)).to(tl.float32) - whole)
        for i in range(tl.minimum(wanted.to(tl.int32), MOST)):
            best = tl.max(high, 0)
            tl.store(top + row * MOST + i, value_of(best) - whole)
            tl.store(top_ids + row * MOST + i, id_of(best))
            block = id_of(best) // BLOCK
            ids = block * BLOCK + at
            inside = ids < VOCAB
            x = tl.load(line + ids, mask=inside, other=float("-inf")).to(tl.float32)
            each = ranked(x, ids)
            following = tl.max(tl.where(inside & (each < best), each, NO_TOKEN), 0)
            high = tl.where(part == block, following, high)
