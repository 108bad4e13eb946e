"""The script for a session on a GPU, run here with a stand-in for Python: every command in it must at least parse."""

import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

from bench import make_parser
from benchmarks.commands import COMMANDS
from benchmarks.commands.memory import grid
from benchmarks.environment import ROOT
from benchmarks.speed import fpt

SCRIPT = ROOT / "benchmarks" / "gpu_session.sh"
STAND_IN = """#!/usr/bin/env bash
printf '%q ' "$@" >> "$LOG"; echo >> "$LOG"
[[ "$*" == *"--precision fp16"* ]] && exit 3
exit 0
"""


def run_session(folder: Path, *parts: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Runs the script; returns how it ended and the arguments that Python was given."""
    python, log = folder / "python", folder / "log"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    (folder / "results" / "measured").mkdir(parents=True, exist_ok=True)
    env = {"PYTHON": str(python), "LOG": str(log), "RESULTS": str(folder / "results"), "OUT": str(folder)}
    ended = subprocess.run([SCRIPT, *parts], env=os.environ | env, capture_output=True, text=True)
    return ended, [shlex.split(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_every_command_parses_and_a_failed_part_stops_no_other(tmp_path: Path) -> None:
    ended, commands = run_session(tmp_path)
    assert ended.returncode == 1 and "== half: ended with status 3" in ended.stderr
    assert len(commands) == 7 and commands[0][:3] == ["-m", "pytest", "-q"]
    assert commands[-1][:2] == ["-m", "benchmarks.speed.fpt"]
    fpt.make_parser().parse_args(commands[-1][2:])
    measured = set()
    for command in commands[1:-1]:
        assert command[:2] == ["bench.py", "memory"]
        args = make_parser(COMMANDS["memory"]).parse_args(command[2:])
        assert args.compare or (args.measure and args.only_missing)
        measured |= set(grid(args)) if args.measure else set()
    assert {(point.precision, point.attention) for point in measured} >= {("fp32", "eager"), ("bf16", "sdpa")}
    assert {point.precision for point in measured if point.grad_checkpointing} == {"fp32", "bf16", "fp16"}
    with tarfile.open(tmp_path / "measured.tgz") as archive:
        assert archive.getnames() == ["measured"]


def test_the_time_limits_fit_ten_minutes() -> None:
    limits = [int(limit) for limit in re.findall(r"\b(?:part|measure) \w+ (\d+) ", SCRIPT.read_text())]
    assert len(limits) == 7 and sum(limits) <= 600


def test_parts_are_chosen_by_name(tmp_path: Path) -> None:
    ended, commands = run_session(tmp_path, "compare")
    assert ended.returncode == 0 and len(commands) == 1
    (tmp_path / "log").unlink()
    ended, commands = run_session(tmp_path, "everything")
    assert ended.returncode == 2 and commands == []
    assert "part must be tests, paper, default, half, checkpointing, compare or speed, got 'everything'" in ended.stderr
