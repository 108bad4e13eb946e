"""Progress on stderr: a live line in a terminal, plain lines elsewhere."""

import time
from pathlib import Path
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

STAGES = {
    "images": "resizing images",
    "preload": "computing frozen features",
    "validate": "validating",
    "test": "testing",
}


def describe(event: dict[str, Any]) -> str | None:
    """An event of a run's process as a line that stays; None for what only moves a bar."""
    if event["event"] == "note":
        return str(event["text"])
    if event["event"] == "epoch":
        return (
            f"epoch {event['epoch']}/{event['epochs']} loss {event['loss']:.3f} val AUC {event['val_auc']:.3f} "
            f"{event['images_per_second']:.1f} images/s"
        )
    if event["event"] == "stage" and event["stage"] in ("images", "preload") and event["done"] == event["total"]:
        return f"{STAGES[event['stage']]}: {event['total']} done"
    if event["event"] == "done":
        return ending(event)
    return None


def ending(done: dict[str, Any]) -> str:
    """How a run ended: its state, and why."""
    return f"{done['state']} ({done['message']})" if done["message"] else str(done["state"])


class SuiteProgress:
    """Shows which run of how many is under way, its epoch, loss, images/s and time left.

    Args:
        total: Number of runs of the suite.
        verbose: Whether to show what runs write to their logs.
        at_once: How many processes share the suite.
    """

    def __init__(self, total: int, verbose: bool = False, at_once: int = 1) -> None:
        self.total, self.verbose, self.at_once = total, verbose, at_once
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.timed: list[float] = []

    def __enter__(self) -> "SuiteProgress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, line: str) -> None:
        """Prints a line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)

    def start(self, number: int, title: str, log: Path | None = None) -> None:
        """A run begins: its place in the suite, from 1, and where it logs."""
        self.title = f"[{number}/{self.total}] {title}"
        self.run_started = time.monotonic()
        self.last = ""  # loss, validation AUC and speed of the epoch before
        self.said = ""
        self.shown = log.stat().st_size if log is not None and log.exists() else 0  # bytes of the log
        self.task = self.progress.add_task(self.title, total=None)
        if not self.console.is_terminal:
            self.note(f"{self.title}: started")

    def event(self, event: dict[str, Any]) -> None:
        """Takes an event of the run's process."""
        text, kind = describe(event), event["event"]
        if kind == "note":
            if text != self.said and not self.verbose:  # who waits says so again and again, as a sign of life
                self.note(f"{self.title}: {text}")
            self.said = str(text)
        elif kind == "stage":
            self._show(STAGES[event["stage"]], event["done"], event["total"])
        elif kind == "step":
            done = event["epoch"] - 1 + event["step"] / event["steps"]
            self._show(f"epoch {event['epoch']}/{event['epochs']}{self.last}", done, event["epochs"])
        elif kind == "epoch":
            assert text is not None
            self.last = text.removeprefix(f"epoch {event['epoch']}/{event['epochs']}")
            self._show(text, event["epoch"], event["epochs"])
            text += self._time_left(event["epoch"] / event["epochs"])
        if kind != "note" and text is not None and not self.console.is_terminal and not self.verbose:
            self.note(f"{self.title}: {text}")

    def show_log(self, log: Path) -> None:
        """Shows what a log has got since, where that is asked for."""
        if not self.verbose or not log.exists():
            return
        with log.open("rb") as file:
            file.seek(self.shown)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.shown += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self.note(f"{self.title}: {line}")

    def finish(self, done: dict[str, Any], left: int) -> None:
        """A run has ended, as `done` tells, and some are left."""
        self.progress.remove_task(self.task)
        self.timed.append(time.monotonic() - self.run_started)
        mean = sum(self.timed) / len(self.timed)
        rest = f", about {in_words(left * mean / self.at_once)} for the {left} left" if left else ""
        self.note(f"{self.title}: {ending(done)} in {in_words(self.timed[-1])}{rest}")

    def _show(self, text: str, done: float, total: float) -> None:
        left = self._time_left(done / total) if text.startswith("epoch") else ""
        self.progress.update(self.task, description=f"{self.title}: {text}{left}", completed=done, total=total)

    def _time_left(self, share: float) -> str:
        if not 0 < share < 1:
            return ""
        elapsed = time.monotonic() - self.run_started
        return f", {in_words(elapsed * (1 - share) / share)} left"


class CountProgress:
    """Shows how many of how many things are done: a bar in a terminal, elsewhere a line every ten seconds.

    Args:
        what: What is under way.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
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


def in_words(seconds: float) -> str:
    """Seconds for reading: `3 min 05 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
