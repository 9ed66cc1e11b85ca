"""A model of torch's CUDACachingAllocator: which blocks it takes from the driver, and what it cannot give back.

As in c10/cuda/CUDACachingAllocator.cpp: two pools; small requests (1 MB) from segments of 2 MB, others from segments of
20 MB or, above 10 MB, of their own size rounded up to 2 MB; best fit; what is left of a block is split off; neighbours
that are free become one; only a segment that is wholly free goes back, and all of those do before memory is short.
"""

from dataclasses import dataclass, field

MB = 1 << 20
SMALL, SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT, ROUND = MB, 2 * MB, 20 * MB, 10 * MB, 2 * MB


class OutOfMemory(Exception):
    """A request that the card cannot serve, with what is taken and what of it is free."""


@dataclass(eq=False)
class Block:
    size: int
    free: bool
    segment: "Segment"


@dataclass(eq=False)
class Segment:
    size: int
    small: bool
    blocks: list[Block] = field(default_factory=list)


class CachingAllocator:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.peak_reserved = 0
        self._segments: list[Segment] = []

    @property
    def reserved(self) -> int:
        return sum(segment.size for segment in self._segments)

    @property
    def holes(self) -> int:
        """Bytes that are free inside of segments that are in use."""
        used = [segment for segment in self._segments if not all(block.free for block in segment.blocks)]
        return sum(block.size for segment in used for block in segment.blocks if block.free)

    def allocate(self, size: int) -> Block:
        size = max(-(-size // 512) * 512, 512)
        small = size <= SMALL
        fitting = [
            block
            for segment in self._segments
            if segment.small == small
            for block in segment.blocks
            if block.free and block.size >= size
        ]
        block = min(fitting, key=lambda block: block.size) if fitting else self._take(size, small)
        block.free = False
        if block.size - size >= (512 if small else SMALL + 1):
            blocks = block.segment.blocks
            blocks.insert(blocks.index(block) + 1, Block(block.size - size, True, block.segment))
            block.size = size
        return block

    def _take(self, size: int, small: bool) -> Block:
        if small:
            wanted = SMALL_SEGMENT
        else:
            wanted = LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // ROUND) * ROUND
        if self.reserved + wanted > self.capacity:
            self.release()
        if self.reserved + wanted > self.capacity:
            taken, holes = self.reserved / MB, self.holes / MB
            raise OutOfMemory(f"{wanted / MB:.0f} MB; {taken:.0f} MB are taken, {holes:.0f} MB of them free")
        segment = Segment(wanted, small)
        segment.blocks.append(Block(wanted, True, segment))
        self._segments.append(segment)
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return segment.blocks[0]

    def free(self, block: Block) -> None:
        block.free = True
        blocks = block.segment.blocks
        at = blocks.index(block)
        for left, right in ((at, at + 1), (at - 1, at)):
            if 0 <= left and right < len(blocks) and blocks[left].free and blocks[right].free:
                blocks[left].size += blocks[right].size
                del blocks[right]

    def release(self) -> None:
        self._segments = [segment for segment in self._segments if not all(block.free for block in segment.blocks)]
