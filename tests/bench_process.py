"""bench.py as a user starts it, on tiny images and a tiny backbone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.suite_file import read_options

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench.py"
TINY = ["--datasets", "images", "--weights", "none", "--backbone", "vit_tiny_patch16_224", "--res", "32"]
TINY += ["--batch-size", "4", "--device", "cpu"]


def options_of(*arguments: str, command: str = "run") -> SuiteOptions:
    """What a command line asks for."""
    return read_options(vars(make_parser(COMMANDS[command]).parse_args(arguments)))


class Ended(NamedTuple):
    """A suite that has ended: its exit status, what it said, and its records by method."""

    returncode: int
    stdout: str
    stderr: str
    records: dict[str, dict[str, Any]]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts bench.py in a folder."""
    return subprocess.Popen(
        [sys.executable, BENCH, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_signals,
    )


def _hear_signals() -> None:
    """Whoever runs the tests may have these ignored: a shell Ctrl-C for what is in its background, nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def finish(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs bench.py in a folder to its end."""
    process = start(folder, *arguments)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def records(results: Path) -> dict[str, dict[str, Any]]:
    """The stored records by method."""
    stored = [json.loads(path.read_text()) for path in sorted((results / "runs").glob("*.json"))]
    return {record["run"]["config"]["method"]: record for record in stored}


def watch(
    folder: Path, results: str, *arguments: str, on: Mapping[str, Callable[["subprocess.Popen[str]"], object]]
) -> Ended:
    """Runs a suite; what `on` maps a piece of stderr to is called once, when a line holds it."""
    lines, waiting = [], dict(on)
    with start(folder, *arguments, "--results", results) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in process.stderr:
                lines.append(line)
                for piece in [piece for piece in waiting if piece in line]:
                    waiting.pop(piece)(process)
            stdout = process.stdout.read()
        except BaseException:
            process.kill()
            raise
    assert not waiting, "".join(lines)
    return Ended(process.returncode, stdout, "".join(lines), records(folder / results))
