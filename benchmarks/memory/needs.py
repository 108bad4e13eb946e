"""What a card must have for a run, from the memory that the run allocates."""

MARGIN = 0.05  # of what is allocated: fragmentation, and the prediction's error
# CUDA context with the kernels and libraries loaded by each phase: as measured on an H100, driver 580, CUDA 13.0.
# What preparation loads was never measured: taken as preloading's.
_CONTEXT_MIB = {"setup": 610, "preload": 686, "prepare": 686, "train": 758, "eval": 758}
CONTEXT_BYTES = {phase: size * 2**20 for phase, size in _CONTEXT_MIB.items()}


def needed_bytes(highest: int) -> int:
    """What a card must have: the highest peak of a run's phases, the margin and the CUDA context, all in bytes."""
    return int(highest * (1 + MARGIN)) + CONTEXT_BYTES["train"]
