# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Logits -> the scores that are drawn from, in one pass: penalties, bias, min_tokens, masks, temperature.

Rounded after each operation as torch rounds: compiled without fusing of products and sums, divided to the last bit.
"""

import triton
import triton.language as tl

from truss_model.engine.execution.cuda.shares import first_of_highest, value_of
from truss_model.engine.execution.sampling_state import IN_PROMPT, NUMBERS

TEMPERATURE, TOP_P, LEAST, PRESENCE, FREQUENCY, REPETITION, TOP_K, MIN_LENGTH, LOGPROBS, COUNTED, BIASED = (
    tl.constexpr(NUMBERS.index(name))
    for name in (
        "temperature", "top_p", "least", "presence", "frequency", "repetition", "top_k", "min_length", "logprobs",
        "counted", "biased",
    )
)  # fmt: skip
GENERATED = tl.constexpr(IN_PROMPT - 1)  # the bits of a count


@triton.jit
def processed(x, ids, inside, row, slot, numbers, counts, bias, masks, ends, contexts, mask_of, end_count,
              VOCAB: tl.constexpr, WORDS: tl.constexpr):  # fmt: skip
    """As sampling.process does it. numbers: of this row, in the order of NUMBERS."""
    if tl.load(numbers + COUNTED) > 0:
        seen = tl.load(counts + slot * VOCAB + ids, mask=inside, other=0)
        factor = tl.load(numbers + REPETITION)
        x = tl.where(seen > 0, tl.where(x > 0, tl.div_rn(x, factor), x * factor), x)
        count = seen & GENERATED
        often = count.to(tl.float32) * tl.load(numbers + FREQUENCY)
        x = x - (often + (count > 0).to(tl.float32) * tl.load(numbers + PRESENCE))
    if tl.load(numbers + BIASED) > 0:
        x = x + tl.load(bias + slot * VOCAB + ids, mask=inside, other=0.0)
    if tl.load(contexts + row).to(tl.float32) < tl.load(numbers + MIN_LENGTH):
        for i in range(end_count):
            x = tl.where(ids == tl.load(ends + i), float("-inf"), x)
    mask = tl.load(mask_of + row)
    if mask >= 0:
        word = tl.load(masks + mask.to(tl.int64) * WORDS + ids // 32, mask=inside, other=0)
        x = tl.where((word >> (ids % 32)) & 1 == 0, float("-inf"), x)
    return x


# Groups of rows begin anywhere: no reason to compile again.
@triton.jit(do_not_specialize=["end_count"], do_not_specialize_on_alignment=["slots", "contexts", "mask_of"])
def score(
    logits, numbers, counts, bias, masks, ends, slots, contexts, mask_of, scores, highest, raw_highest, raw_sums,
    logits_row, end_count,
    VOCAB: tl.constexpr, WORDS: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """A program a block of a row. highest: first_of_highest of each block's scores; the same of the raw logits, and
    the sums of their exponentials below that, for rows that want logprobs."""
    row, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = row * tl.num_programs(0) + block
    ids = block * BLOCK + tl.arange(0, BLOCK)
    inside = ids < VOCAB
    x = tl.load(logits + row * logits_row + ids, mask=inside, other=float("-inf")).to(tl.float32)
    slot = tl.load(slots + row).to(tl.int64)
    numbers += slot * NUMBERS
    if ALL:
        if tl.load(numbers + LOGPROBS) >= 0:
            high = first_of_highest(x, ids, inside)
            tl.store(raw_highest + at, high)
            below = tl.where(inside & (x > float("-inf")), x - value_of(high), float("-inf"))
            tl.store(raw_sums + at, tl.sum(tl.exp(below), 0))
        x = processed(x, ids, inside, row, slot, numbers, counts, bias, masks, ends, contexts, mask_of, end_count,
                      VOCAB, WORDS)  # fmt: skip
    temperature = tl.load(numbers + TEMPERATURE)
    temperature = tl.where(temperature == 0, 1.0, temperature)
    scored = tl.div_rn(x, temperature)
    tl.store(highest + at, first_of_highest(scored, ids, inside))
    tl.store(scores + row * VOCAB + ids, scored, mask=inside)
