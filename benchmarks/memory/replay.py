"""A trace of storages run through a model of CUDA's allocator: what each phase takes at its peak."""

from dataclasses import dataclass

from benchmarks.memory.allocator import Block, CachingAllocator
from benchmarks.memory.needs import CONTEXT_BYTES

STEPS = 3  # of training, as many as are measured: state that the first one makes lies among what it then releases


@dataclass(frozen=True)
class PhasePeak:
    """Predicted peaks of a phase, in bytes.

    Attributes:
        allocated: As torch.cuda.max_memory_allocated counts.
        reserved: Segments of the allocator.
        process: What the driver would report: an estimate, `reserved` and a CUDA context.
        breakdown: What is allocated at the peak, by purpose; sums to `allocated`.
    """

    allocated: int
    reserved: int
    process: int
    breakdown: dict[str, int]


def replay(
    events: list[tuple[int, int]], tags: dict[int, str], bounds: dict[str, tuple[int, int]]
) -> dict[str, PhasePeak]:
    """Runs a trace through the CUDA allocator.

    Args:
        events: As `StorageTrace.events`.
        tags: As `StorageTrace.tags`.
        bounds: For each phase its first event, and the one behind its last.
    """
    allocator = CachingAllocator()
    live: dict[int, Block] = {}
    sizes: dict[int, int] = {}

    def apply(storage: int, size: int) -> None:
        if size < 0:
            allocator.free(live.pop(storage))
        else:
            live[storage] = allocator.malloc(size)
            sizes[storage] = live[storage].size

    peaks: dict[str, PhasePeak] = {}
    position = 0
    for phase, (begin, end) in bounds.items():
        for event in events[position:begin]:
            apply(*event)
        allocator.empty_cache()
        run = events[begin:end]
        if phase == "train":
            run += _transient(run) * (STEPS - 1)
        allocated, reserved, peak = allocator.allocated, allocator.reserved, 0
        for count, event in enumerate(run, start=1):
            apply(*event)
            reserved = max(reserved, allocator.reserved)
            if allocator.allocated > allocated:
                allocated, peak = allocator.allocated, count
        breakdown = _breakdown(events[:begin] + run[:peak], sizes, tags)
        peaks[phase] = PhasePeak(allocated, reserved, reserved + CONTEXT_BYTES[phase], breakdown)
        position = end
    return peaks


def _transient(events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The events of a step that any later step repeats: of storages that are both made and released in it."""
    made = {storage for storage, size in events if size >= 0}
    both = {storage for storage, size in events if size < 0 and storage in made}
    return [event for event in events if event[0] in both]


def _breakdown(events: list[tuple[int, int]], sizes: dict[int, int], tags: dict[int, str]) -> dict[str, int]:
    """Bytes by purpose of what is live after `events`, the largest first."""
    live: set[int] = set()
    for storage, size in events:
        if size < 0:
            live.remove(storage)
        else:
            live.add(storage)
    totals: dict[str, int] = {}
    for storage in live:
        totals[tags[storage]] = totals.get(tags[storage], 0) + sizes[storage]
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
