"""Numbers out of bounds are refused while a command line or a suite file is read: all at once, before any work."""

import argparse
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_process import options_of

import bench
from benchmarks.bounds import BOUNDS, Fault, broken_rule, positive, read_number, typed
from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser, read_arguments
from benchmarks.errors import UserError
from benchmarks.suite.option_rules import faults
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.slurm_settings import SlurmSettings


@pytest.mark.parametrize("name", BOUNDS)
def test_the_ends_are_in_and_what_is_beyond_is_out(name: str) -> None:
    bounds = BOUNDS[name]
    step = 1 if bounds.whole else 1e-3
    least = bounds.least + step if bounds.above else bounds.least
    assert (broken_rule(name, least), broken_rule(name, bounds.most)) == (None, None)
    assert read_number(name, str(int(bounds.most) if bounds.whole else bounds.most)) == bounds.most
    for value in (bounds.least if bounds.above else bounds.least - step, bounds.most * 1.1, "nan", "inf", "-inf"):
        assert broken_rule(name, int(value) if bounds.whole and not isinstance(value, str) else value), value
    for odd in (10**39, "1" + "0" * 5000, 10**400, -(10**400), True, None, "", "x", [1]):
        assert broken_rule(name, odd), odd


def test_seeds_are_those_that_torch_and_numpy_take() -> None:
    for seed in (int(BOUNDS["seeds"].least), int(BOUNDS["seeds"].most)):
        torch.Generator().manual_seed(seed)
        np.random.RandomState(seed)
    for seed in (int(BOUNDS["seeds"].least) - 1, int(BOUNDS["seeds"].most) + 1):
        with pytest.raises(ValueError):
            np.random.RandomState(seed)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (f"--methods fpt --res {10**30}", ["res must be at most 16,384, got '1000"]),
        (f"--methods fpt --res {10**9}", ["res must be at most 16,384, got '1000000000'"]),
        ("--methods fpt --seeds 0 4294967296", ["seeds must be at most 4,294,967,295, got '4294967296'"]),
        ("--methods fpt --seeds -1", ["seeds must be at least 0, got '-1'"]),
        (
            "--methods fpt --lr inf --epochs -1 --batch-size 010 --jobs 10000 --hang-minutes nan",
            [
                "lr must be at most 3e+38, got 'inf'",
                "epochs must be at least 1, got '-1'",
                "batch_size must be a whole number without zeros in front, got '010'",
                "jobs must be at most 1,024, got '10000'",
                "hang_minutes must be above 0, got 'nan'",
            ],
        ),
        ("--methods fpt --slurm minutes=1e9 cpus=-1", ["minutes of slurm must be a", "cpus of slurm must be at least"]),
        (
            "fit --gpu-memory 0GB --res 1e30 --batch-size 0",
            ["gpu-memory in GB must be above 0, got '0'", "res must be a whole number, got '1e30'", "batch_size must"],
        ),
        ("memory --res 224 0 99999 --num-classes 0", ["res must be at least 1", "res must be at most", "num_classes"]),
        ("params --num-classes 9999999", ["num_classes must be at most 100,000, got '9999999'"]),
        ("check x --seed -1 --samples 0", ["seed must be at least 0, got '-1'", "samples must be at least 1, got '0'"]),
        (
            "prepare covid --raw x --max-side 0 --seed 4294967296",
            ["max_side must be at least 1, got '0'", "seed must be at most 4,294,967,295"],
        ),
        ("clean caches --older-than nan", ["older_than must be at least 0, got 'nan'"]),
    ],
)
def test_all_numbers_of_a_command_line_are_refused_at_once_before_any_work(
    arguments: str, messages: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("benchmarks.suite.plan.make_plan", work)
    monkeypatch.setattr("benchmarks.storage.files.check_writable", work)
    assert bench.main(shlex.split(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    for message in messages:
        assert message in err


def test_a_file_and_what_is_typed_are_refused_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"epochs: 010\nres: [224, {10**30}]\nslurm: {{minutes: 0}}")
    with pytest.raises(UserError) as error:
        options_of("--suite", str(path), "--seeds", "-1")
    for message in (
        "epochs in .*mine.yaml must be a whole number without zeros in front, got '010'",
        "res in .*mine.yaml must be at most 16,384",
        "minutes of slurm in .*mine.yaml must be at least 1, got '0'",
        "seeds must be at least 0, got '-1'$",
    ):
        assert re.search(message, str(error.value))


def test_no_number_of_any_command_is_without_bounds() -> None:
    for command in COMMANDS.values():
        for action in make_parser(command)._actions:
            assert action.type not in (int, float, positive), (command.name, action.option_strings)
    wild: dict[str, object] = {}
    for name, field in SuiteOptions.model_fields.items():
        if re.search(r"\b(int|float)\b", str(field.annotation)):
            wild[name] = 10**40
    assert {"res", "seeds", "epochs", "batch_size", "lr", "jobs", "warmup_epochs", "hang_minutes"} <= wild.keys()
    assert len(faults(wild)) == len(wild)
    numbers = [name for name, field in SlurmSettings.model_fields.items() if "int" in str(field.annotation)]
    assert len(faults({"slurm": dict.fromkeys(numbers, 10**40)})) == len(numbers)


def test_faults_wait_in_the_place_of_values() -> None:
    read = typed("res")
    assert (read("224"), isinstance(read("0"), Fault)) == (224, True)
    assert read_arguments(COMMANDS["memory"], ["--res", "224", "512"]).res == [224, 512]
    with pytest.raises(UserError, match=r"^res must be at least 1, got '0'; res must be a whole number, got 'x'$"):
        read_arguments(COMMANDS["memory"], ["--res", "0", "224", "x", "0"])


def test_what_is_no_command_of_ours_refuses_numbers_too() -> None:
    assert positive("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="must be at least 1, got 0"):
        positive("0")
