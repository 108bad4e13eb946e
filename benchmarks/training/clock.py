"""Seconds of each part of a run, and joules where a GPU counts them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Counter = Callable[[], float | None]


class Clock:
    """Seconds spent in each named part of a run, those before it was stopped and went on included.

    Args:
        imported: Seconds that importing took, before there was a clock.

    Attributes:
        seconds: By part.
        processor: Processor seconds of this process by part, all of its threads together.
        joules: Energy by part, where something counts it.
        energy: Reads the counter of energy, in joules; None where there is none. A GPU's is of the whole GPU, and
            moves several times a second: parts that are shorter share what they use with their neighbours.
    """

    def __init__(self, imported: float = 0.0) -> None:
        self.seconds = {"import": imported}
        self.processor: dict[str, float] = {}
        self.joules: dict[str, float] = {}
        self.energy: Counter = lambda: None
        self._started = time.perf_counter() - imported

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        energy, started, used = self.energy(), time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.add({part: time.perf_counter() - started})
            self.processor[part] = self.processor.get(part, 0.0) + time.process_time() - used
            after = None if energy is None else self.energy()
            if energy is not None and after is not None:
                self.joules[part] = self.joules.get(part, 0.0) + after - energy

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def add(self, seconds: Mapping[str, float], total: float = 0.0, joules: Mapping[str, float] | None = None) -> None:
        """Adds to some parts, and to the total what lies before the start of this process."""
        self._started -= total
        for part, value in (joules or {}).items():
            self.joules[part] = self.joules.get(part, 0.0) + value
        for part, value in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + value
