"""The script for a session on a GPU, run here with stand-ins: every part runs, every command in it at least parses."""

import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.commands.memory import grid
from benchmarks.environment import ROOT
from benchmarks.speed import compiled, fpt, loading, savers
from methods import METHODS

SCRIPT = ROOT / "benchmarks" / "gpu_session.sh"
PYTHON = """#!/usr/bin/env bash
printf '%q ' "$@" >> "$LOG"; echo >> "$LOG"
[[ "$*" == *"--precision fp16"* ]] && exit 3
exit 0
"""
TIMEOUT = """#!/usr/bin/env bash
printf '%s ' "$1" >> "$LOG"
"${@:2}"
"""


ALONE = {"compiled": compiled, "loading": loading}  # benchmarks that take a call of their own
EVERY = ["every", "every_paper"]  # all methods, by name only


class Session(NamedTuple):
    """A session that has ended: the parts that ran, the seconds that each may take, and what Python was given."""

    out: Path
    ended: subprocess.CompletedProcess[str]
    parts: list[str]
    limits: list[int]
    commands: list[list[str]]


def run_session(folder: Path, *parts: str) -> Session:
    """Runs the script, with stand-ins for Python and timeout."""
    for name, script in (("python", PYTHON), ("timeout", TIMEOUT)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    (folder / "results" / "measured").mkdir(parents=True)
    log = folder / "log"
    env = {"PYTHON": str(folder / "python"), "LOG": str(log), "RESULTS": str(folder / "results"), "OUT": str(folder)}
    env["PATH"] = f"{folder}:{os.environ['PATH']}"
    ended = subprocess.run([SCRIPT, *parts], env=os.environ | env, capture_output=True, text=True)
    calls = [shlex.split(line) for line in log.read_text().splitlines()] if log.exists() else []
    begun = re.findall(rf"^== (\w+): {re.escape(env['PYTHON'])} ", ended.stderr, re.M)
    return Session(folder, ended, begun, [int(limit) for limit, *_ in calls], [command for _, *command in calls])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """All parts."""
    return run_session(tmp_path_factory.mktemp("session"))


def test_every_part_that_may_be_named_runs_in_order_and_a_failed_one_stops_no_other(
    session: Session, tmp_path: Path
) -> None:
    refused = run_session(tmp_path, "everything")
    assert refused.ended.returncode == 2 and refused.commands == []
    (named,) = re.findall(r"^part must be (.*), got 'everything'$", refused.ended.stderr, re.M)
    assert [*session.parts, *ALONE, "quantized", *EVERY] == re.split(", | or ", named)
    assert session.ended.returncode == 1 and "== half: ended with status 3" in session.ended.stderr


def test_every_command_parses_and_what_matters_is_measured(session: Session) -> None:
    commands = dict(zip(session.parts, session.commands, strict=True))
    assert commands.pop("tests")[:3] == ["-m", "pytest", "-q"]
    assert commands["speed"][:2] == ["-m", "benchmarks.speed.fpt"]
    fpt.make_parser().parse_args(commands.pop("speed")[2:])
    measured = set()
    for command in commands.values():
        assert command[:2] == ["bench.py", "memory"]
        args = make_parser(COMMANDS["memory"]).parse_args(command[2:])
        assert args.compare or (args.measure and args.only_missing)
        measured |= set(grid(args)) if args.measure else set()
    assert {(point.precision, point.attention) for point in measured} >= {("fp32", "eager"), ("bf16", "sdpa")}
    assert {point.precision for point in measured if point.grad_checkpointing} == {"fp32", "bf16", "fp16"}


def test_the_records_are_handed_over_in_one_file(session: Session) -> None:
    with tarfile.open(session.out / "measured.tgz") as archive:
        assert archive.getnames() == ["measured"]


def test_the_time_limits_fit_ten_minutes(session: Session) -> None:
    assert 0 < sum(session.limits) <= 600


@pytest.mark.parametrize("part", EVERY)
def test_every_method_is_measured_in_a_call_of_its_own(tmp_path: Path, part: str) -> None:
    found = run_session(tmp_path, part)
    assert found.parts == [part] and found.limits[0] <= 600
    points = grid(make_parser(COMMANDS["memory"]).parse_args(found.commands[0][2:]))
    assert {point.method for point in points} == set(METHODS)


@pytest.mark.parametrize("part", ALONE)
def test_a_long_benchmark_has_a_call_of_its_own(tmp_path: Path, part: str) -> None:
    found = run_session(tmp_path, part)
    assert found.parts == [part] and found.limits[0] <= 600
    assert found.commands[0][:2] == ["-m", f"benchmarks.speed.{part}"]
    assert ALONE[part].make_parser().parse_args(found.commands[0][2:]).device == "cuda"


def test_quantised_weights_are_measured_and_compared_in_a_call_of_its_own(tmp_path: Path) -> None:
    found = run_session(tmp_path, "quantized", "compare")
    assert found.parts == ["quantized", "quantized", "quantized", "compare"] and sum(found.limits) <= 600
    parsed = [make_parser(COMMANDS["memory"]).parse_args(command[2:]) for command in found.commands[:2]]
    points = {point for args in parsed for point in grid(args)}
    assert {point.quantize for point in points} == {"int8", "nf4"} and len(points) == 2 * 5 * 2 * 2
    assert found.commands[2][:2] == ["-m", "benchmarks.speed.savers"]
    args = savers.make_parser().parse_args(found.commands[2][2:])
    assert args.timed and args.device == "cuda"


def test_parts_are_chosen_by_name(tmp_path: Path) -> None:
    assert run_session(tmp_path, "speed", "compare").parts == ["speed", "compare"]
