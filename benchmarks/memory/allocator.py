"""PyTorch's CUDA caching allocator, replayed: how much is allocated and reserved after each request.

Sizes and rules as in c10/cuda/CUDACachingAllocator.cpp with its default settings: requests are rounded to 512 bytes;
those up to 1 MiB come from segments of 2 MiB, larger ones from segments of 20 MiB or, from 10 MiB on, of their own
size rounded to 2 MiB; the smallest free block that fits is taken and split unless too little would remain. What
remains counts as allocated.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

MIN_BLOCK = 512
SMALL_REQUEST = 2**20
SMALL_SEGMENT = 2 * 2**20
MIN_OWN_SEGMENT = 10 * 2**20
LARGE_SEGMENT = 20 * 2**20
SEGMENT_ROUNDING = 2 * 2**20


@dataclass(eq=False)
class Block:
    """A piece of a segment, free or in use, and its neighbours there."""

    address: int
    size: int
    small: bool
    free: bool = True
    previous: "Block | None" = None
    next: "Block | None" = None

    @property
    def key(self) -> tuple[int, int]:
        return (self.size, self.address)


class CachingAllocator:
    """The allocator of one GPU and stream.

    Attributes:
        allocated: Bytes of all blocks in use, as torch.cuda.memory_allocated counts them.
        reserved: Bytes of all segments, as torch.cuda.memory_reserved counts them.
    """

    def __init__(self) -> None:
        self.allocated = 0
        self.reserved = 0
        self._next_address = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (size, address), sorted, per pool
        self._blocks: dict[int, Block] = {}  # free blocks by address

    def malloc(self, size: int) -> Block:
        """Takes a block for a request of `size` bytes, above 0."""
        size = -(-size // MIN_BLOCK) * MIN_BLOCK
        small = size <= SMALL_REQUEST
        pool = self._free[small]
        place = bisect_left(pool, (size, -1))
        block = self._take(pool[place]) if place < len(pool) else self._new_segment(size, small)
        remaining = block.size - size
        if remaining >= MIN_BLOCK if small else remaining > SMALL_REQUEST:
            rest = Block(block.address + size, remaining, small, previous=block, next=block.next)
            if block.next:
                block.next.previous = rest
            block.next, block.size = rest, size
            self._put(rest)
        block.free = False
        self.allocated += block.size
        return block

    def free(self, block: Block) -> None:
        """Gives a block back; it is joined with its free neighbours."""
        self.allocated -= block.size
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.free:
                self._take(neighbour.key)
                first, second = (neighbour, block) if neighbour is block.previous else (block, neighbour)
                first.size += second.size
                first.next = second.next
                if second.next:
                    second.next.previous = first
                block = first
        self._put(block)

    def empty_cache(self) -> None:
        """Gives wholly free segments back to the driver."""
        for block in list(self._blocks.values()):
            if block.previous is None and block.next is None:
                self._take(block.key)
                self.reserved -= block.size

    def _new_segment(self, size: int, small: bool) -> Block:
        if small:
            size = SMALL_SEGMENT
        elif size < MIN_OWN_SEGMENT:
            size = LARGE_SEGMENT
        else:
            size = -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING
        self.reserved += size
        self._next_address += size
        return Block(self._next_address - size, size, small)

    def _put(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], block.key)
        self._blocks[block.address] = block

    def _take(self, key: tuple[int, int]) -> Block:
        block = self._blocks.pop(key[1])
        pool = self._free[block.small]
        del pool[bisect_left(pool, key)]
        return block
