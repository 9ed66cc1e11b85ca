"""A step that only one recording of prompts and rows that decode holds, made of the self-check's text. Runs nothing."""

from collections.abc import Sequence

from truss_model.engine.execution.mixed_fields import MixedShape
from truss_model.engine.execution.reference import DECODES, Reference
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk

SEVERAL = 3  # rows that decode, where so many fit


def filling(
    shape: MixedShape, shapes: Sequence[MixedShape], decoding: Sequence[Chunk], rows: Sequence[Row], text: Reference
) -> list[Chunk]:
    """Chunks for `shape` that no smaller one of `shapes` holds. Empty if the text is too short for it.

    decoding: one chunk for each of `rows`, whose prompts are in the pages. All is of the same text: a row that comes
    more than once writes the same numbers to the same pages again.
    """
    fewer = max((other.tokens for other in shapes if other.tokens < shape.tokens), default=0)
    few = max((other.decodes for other in shapes if other.tokens == shape.tokens and other < shape), default=0)
    total = max(shape.tokens - (shape.tokens - fewer - 1) // 4, min(few + 3, shape.tokens))
    decodes = max(min(shape.decodes, few + SEVERAL, total - 2), 0)
    chunks = [decoding[i % len(decoding)] for i in range(decodes)]
    chunks += _prompts(total - decodes, shape.prompts, rows, text)
    chunks = [chunk._replace(samples=i < shape.sampled) for i, chunk in enumerate(chunks)]
    return chunks if fewer < sum(chunk.length for chunk in chunks) else []


def _prompts(tokens: int, most: int, rows: Sequence[Row], text: Reference) -> list[Chunk]:
    """At most so many: a chunk from the middle of the first row, the start of the last row, and the first row again."""
    first, last = rows[0], rows[-1]
    end = min(text.lengths[0] + 2 * DECODES + 1, len(text.tokens))  # so far the pages are filled and positions compared

    def up_to_end(count: int) -> Chunk:
        return Chunk(first, end - min(count, end), min(count, end), samples=True)

    chunks = list[Chunk]()
    middle = max(2, tokens // 4)
    starts = [at + 1 for at in text.positions if 1 < at + 1 <= min(tokens - middle, text.lengths[last.index])]
    if starts and tokens - middle - max(starts) <= (most - 2) * end:
        chunks = [up_to_end(middle), Chunk(last, 0, max(starts), samples=True)]
    left = tokens - sum(chunk.length for chunk in chunks)
    while left > 0 and len(chunks) < most:
        chunks.append(up_to_end(left))
        left -= chunks[-1].length
    return chunks
