"""Seconds of each part of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """Seconds spent in each named part of a run, those before it was stopped and went on included.

    Args:
        imported: Seconds that importing took, before there was a clock.

    Attributes:
        seconds: By part.
        processor: Processor seconds of this process by part, all of its threads together.
    """

    def __init__(self, imported: float = 0.0) -> None:
        self.seconds = {"import": imported}
        self.processor: dict[str, float] = {}
        self._started = time.perf_counter() - imported

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started, used = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.add({part: time.perf_counter() - started})
            self.processor[part] = self.processor.get(part, 0.0) + time.process_time() - used

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def add(self, seconds: Mapping[str, float], total: float = 0.0) -> None:
        """Adds to some parts, and to the total what lies before the start of this process."""
        self._started -= total
        for part, value in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + value
