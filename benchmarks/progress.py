"""Progress on stderr: a live line in a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

STAGES = {"images": "resizing images", "preload": "computing frozen features"}


class SuiteProgress:
    """Shows which run of how many is under way, its epoch, loss, images/s and time left.

    Args:
        total: Number of runs of the suite.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.suite_started = time.monotonic()
        self.timed: list[float] = []

    def __enter__(self) -> "SuiteProgress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, line: str) -> None:
        """Prints a line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)

    def start(self, number: int, title: str) -> None:
        """A run begins."""
        self.title = f"[{number}/{self.total}] {title}"
        self.run_started = time.monotonic()
        self.number = number
        self.last = ""  # validation AUC and speed of the epoch before
        self.task = self.progress.add_task(self.title, total=None)
        if not self.console.is_terminal:
            self.note(f"{self.title}: started")

    def event(self, event: dict[str, Any]) -> None:
        """Takes an event of the run's process."""
        if event["event"] == "stage":
            text = STAGES[event["stage"]]
            self._show(text, event["done"], event["total"])
            if event["done"] == event["total"]:
                self._plain(f"{text}: {event['total']} done")
        elif event["event"] == "note":
            self.note(f"{self.title}: {event['text']}")
        elif event["event"] == "step":
            done = event["epoch"] - 1 + event["step"] / event["steps"]
            self._show(
                f"epoch {event['epoch']}/{event['epochs']} loss {event['loss']:.3f}{self.last}", done, event["epochs"]
            )
        elif event["event"] == "epoch":
            text = (
                f"epoch {event['epoch']}/{event['epochs']} loss {event['loss']:.3f} val AUC {event['val_auc']:.3f} "
                f"{event['images_per_second']:.1f} images/s"
            )
            self.last = text.partition(f"{event['loss']:.3f}")[2]
            self._show(text, event["epoch"], event["epochs"])
            self._plain(text + self._time_left(event["epoch"] / event["epochs"]))

    def finish(self, summary: str) -> None:
        """A run has ended."""
        self.progress.remove_task(self.task)
        self.timed.append(time.monotonic() - self.run_started)
        left = self.total - self.number
        rest = f", about {_duration(left * sum(self.timed) / len(self.timed))} for the {left} left" if left else ""
        self.note(f"{self.title}: {summary} in {_duration(self.timed[-1])}{rest}")

    def _show(self, text: str, done: float, total: float) -> None:
        left = self._time_left(done / total) if text.startswith("epoch") else ""
        self.progress.update(self.task, description=f"{self.title}: {text}{left}", completed=done, total=total)

    def _plain(self, text: str) -> None:
        if not self.console.is_terminal:
            self.note(f"{self.title}: {text}")

    def _time_left(self, share: float) -> str:
        if not 0 < share < 1:
            return ""
        elapsed = time.monotonic() - self.run_started
        return f", {_duration(elapsed * (1 - share) / share)} left"


class CountProgress:
    """Shows how many of how many things are done: a bar in a terminal, elsewhere a line every ten seconds.

    Args:
        what: What is under way.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.said = time.monotonic()

    def __enter__(self) -> "CountProgress":
        self.progress.start()
        self.task = self.progress.add_task(self.what, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Takes the state."""
        self.progress.update(self.task, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            self.console.print(f"{self.what}: {done} of {total}", markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
