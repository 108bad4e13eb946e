"""Gives awkward things to the product as a user would, and prints what it said.

`PYTHONPATH=. python tests/awkward.py` prints a table of this checkout; `--code OLD NEW` one column for each of several
checkouts, which shows what a change did. Nothing of the product is asked but by its commands: another version need not
be alike inside. What needs a full disk, a SLURM or a kill of the system is left to the tests. Examples stand in
awkward_input.py (what a user has) and awkward_stored.py (what the product has stored, and what it is asked).
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds until a command counts as hanging
MODEL = ("--weights", "none", "--backbone", "vit_tiny_patch16_224", "--res", "32", "--batch-size", "4")
RUN = ("--methods", "linear", *MODEL, "--epochs", "2", "--device", "cpu", "--cache", "cache", "--datasets")


class Ended(NamedTuple):
    """What a command gave: its exit status, None where it hung, and all that it said."""

    status: int | None
    said: str


class Bench:
    """bench.py of a checkout, started in a folder of its own."""

    def __init__(self, code: Path, place: Path) -> None:
        self.code = code
        self.place = place

    def __call__(self, *arguments: str | Path, **environment: str) -> Ended:
        """Runs one command to its end."""
        return self._start([str(self.code / "bench.py"), *map(str, arguments)], environment)

    def python(self, text: str, *arguments: str | Path) -> Ended:
        """Runs a piece of Python that finds the checkout's packages."""
        return self._start(["-c", text, *map(str, arguments)], {"PYTHONPATH": str(self.code)})

    def _start(self, command: list[str], environment: dict[str, str]) -> Ended:
        try:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=self.place,
                env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return Ended(None, "")
        return Ended(done.returncode, done.stdout)

    def records(self) -> list[dict[str, Any]]:
        """The stored records, by run id."""
        return [json.loads(path.read_text()) for path in sorted((self.place / "results/runs").glob("*.json"))]


Show = Callable[[Bench], str]
EXAMPLES: dict[str, Show] = {}


def example(title: str) -> Callable[[Show], Show]:
    """Adds an example to the table."""

    def add(show: Show) -> Show:
        EXAMPLES[title] = show
        return show

    return add


def last(ended: Ended) -> str:
    """Exit status and the line that says why."""
    if ended.status is None:
        return f"hangs (over {LIMIT} s)"
    lines = [line for line in ended.said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(bench.py|usage|.*Error\b)", line) and "usage" not in line]
    return f"exit {ended.status}: {(errors or lines or [''])[-1].strip()}"


def noted(ended: Ended, word: str) -> str:
    """Exit status and the first line that has a word in it."""
    line = next((line.strip() for line in ended.said.splitlines() if word in line), "no word of it")
    return f"exit {ended.status}: {line}"


def outcome(bench: Bench, ended: Ended) -> str:
    """AUC of the only run and the brightness of its training images by class, or why there is none."""
    records = bench.records()
    if not records or not records[-1].get("measurements", {}).get("test"):
        return records[-1]["status"]["message"] if records and records[-1]["status"]["message"] else last(ended)
    (store,) = (bench.place / "cache/images").glob("*-train-32-*.npy")
    means = np.load(store).reshape(2, -1).mean(axis=1)  # the store is in the order of the classes, of equal size
    said = " and ".join(f"{mean:.1f}" for mean in means)
    return f"exit {ended.status}: AUC {records[-1]['measurements']['test']['auc']:.2f}, classes' mean pixel {said}"


def table(codes: list[Path], titles: Iterable[str]) -> None:
    """Prints a row an example and a column a checkout, row by row."""
    print("| example | " + " | ".join(code.name for code in codes) + " |")
    print("|---" * (1 + len(codes)) + "|", flush=True)
    for title in titles:
        cells = [title]
        for code in codes:
            with tempfile.TemporaryDirectory() as place:
                said = EXAMPLES[title](Bench(code, Path(place)))
                cells.append(" ".join(said.replace(place, "").replace("|", "/").split()))
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Prints the table of the examples that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--code", nargs="+", type=Path, default=[ROOT], metavar="DIR", help="checkouts to try")
    parser.add_argument("--only", default="", metavar="REGEX", help="examples whose title has it")
    args = parser.parse_args()
    table([code.resolve() for code in args.code], [title for title in EXAMPLES if re.search(args.only, title)])


if __name__ == "__main__":
    import awkward  # the examples enter themselves there

    importlib.import_module("awkward_input")
    importlib.import_module("awkward_stored")
    awkward.main()
