"""The command line: every command shows an example, data go to stdout alone, every mistake is one line and status 2."""

import csv
import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
from bench_process import BENCH, TINY, options_of
from fixed_records import fixed_records, make_record
from tabulate import tabulate
from tiny_images import make_images

import bench
from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser, read_arguments
from benchmarks.commands.dry_run import ranges
from benchmarks.commands.printing import markdown_table
from benchmarks.errors import MachineError, UserError
from benchmarks.model.medical import MEDICAL
from benchmarks.records.record import write_record
from benchmarks.suite.plan import make_plan
from benchmarks.suite.signals import Stop
from datasets import DATASETS
from methods import METHODS

PUBLISHED_PERCENT = {
    "full": "100.00",
    "vpt": "0.17",
    "adapter": "2.03",
    "lora": "0.68",
    "fpt": "1.81",
    "fpt_plus": "1.03",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Said:
    """What a command line returned and printed."""

    def __init__(self, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            self.status: object = bench.main(shlex.split(arguments))
        except SystemExit as end:
            self.status = end.code
        self.out, self.err = capsys.readouterr()


def assert_one_line(said: Said) -> None:
    assert said.status == 2 and said.out == ""
    assert said.err.startswith("bench.py: ") and said.err.count("\n") == 1, said.err


@pytest.mark.process
def test_a_reader_that_has_gone_costs_no_words() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(BENCH), "list", "methods"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(f"{name} -h", capsys)
    assert said.status == 0 and said.err == ""
    assert f"example:\n  {COMMANDS[name].example}" in said.out
    for other in COMMANDS.values():
        assert other.help in said.out
    program, *arguments = shlex.split(COMMANDS[name].example)
    assert (program, arguments.pop(0)) == ("python", "bench.py")
    named = arguments[0] if arguments[0] in COMMANDS else "run"
    assert named == name
    make_parser(COMMANDS[name]).parse_args(arguments[1:] if arguments[0] == name else arguments)


def test_run_is_the_default_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line(said := Said("--methods fpt --res 0", capsys))
    assert Said("run --methods fpt --res 0", capsys).err == said.err


def test_help_shows_the_commands_and_three_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said("-h", capsys)
    assert said.status == 0 and max(map(len, said.out.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert f"  {name} " in said.out and command.help in said.out
    examples = re.findall(r"^  python bench\.py (.*?)   ", said.out, re.MULTILINE)
    assert len(examples) == 3
    for line in examples:
        words = shlex.split(line)
        name = "run" if words[0].startswith("-") else words.pop(0)
        read_arguments(COMMANDS[name], words)


@pytest.mark.process
def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, bench; print([name for name in ('torch', 'timm', 'pandas', 'numpy') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=BENCH.parent, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"


@pytest.mark.process
def test_what_hands_runs_to_their_processes_does_not_wait_for_torch() -> None:
    """A job of a cluster, and each process of `--jobs`: the runs have torch, in processes of their own."""
    code = "import sys; from benchmarks.suite.local import Agent; from benchmarks.suite.suite import run_suite; "
    code += "print([name for name in ('torch', 'timm', 'sklearn', 'pandas') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=BENCH.parent, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"


@pytest.mark.process
def test_what_is_stored_is_shown_without_torch(tmp_path: Path) -> None:
    write_record(tmp_path, make_record("fpt"))
    commands = (["list", "runs"], ["tables"], ["plots"], ["report"])
    code = "import sys, bench\nfor command in {}: bench.main([*command, '--results', {!r}])\n"
    code += (
        "print([name for name in ('torch', 'timm', 'sklearn', 'scipy.stats') if name in sys.modules], file=sys.stderr)"
    )
    arguments = [sys.executable, "-c", code.format(commands, str(tmp_path))]
    ended = subprocess.run(arguments, cwd=BENCH.parent, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "[]"
    assert str(tmp_path / "report.html") in ended.stdout


@pytest.mark.process
def test_it_runs_from_any_folder(folder: Path) -> None:
    ended = subprocess.run([sys.executable, BENCH, "-h"], cwd=folder, capture_output=True, text=True, check=True)
    assert "python bench.py --methods fpt lora --res 512" in ended.stdout
    assert os.access(BENCH, os.R_OK) and list(folder.iterdir()) == []


def test_params_prints_the_published_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said("params --methods full vpt adapter lora fpt fpt_plus --format csv", capsys)
    assert (said.status, said.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert list(rows[0]) == ["method", "trainable", "trainable_head", "frozen", "percent"]
    assert {row["method"]: row["percent"] for row in rows} == PUBLISHED_PERCENT
    counts = {row["method"]: (int(row["trainable"]), int(row["frozen"])) for row in rows}
    assert counts["full"] == (86_090_496, 0)
    assert counts["lora"] == (589_824, 86_090_496)
    assert counts["fpt"] == (1_602_341 - 485, 86_859_496)
    assert counts["fpt_plus"] == (900_965 - 485, 86_859_496)


def test_params_takes_options_and_other_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    command = "params --methods lora --backbone vit_tiny_patch16_224 --set lora.rank=2 --num-classes 3"
    (row,) = json.loads(Said(f"{command} --format json", capsys).out)
    assert (row["trainable"], row["trainable_head"]) == (12 * 4 * 192 * 2, 3 * 193)
    assert Said(command, capsys).out.startswith("| method")


@pytest.mark.parametrize(
    ("what", "expected"),
    [("methods", set(METHODS)), ("datasets", set(DATASETS))],
)
def test_list_shows_what_there_is(what: str, expected: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(f"list {what} --format csv", capsys)
    assert (said.status, said.err) == (0, "")
    assert {row[what[:-1]] for row in csv.DictReader(io.StringIO(said.out))} == expected


def test_list_backbones_names_all_and_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said("list backbones --format csv", capsys)
    rows = {row["backbone"]: row for row in csv.DictReader(io.StringIO(said.out))}
    assert rows.keys() >= {*timm.list_pretrained()}
    assert {name.partition(".")[0] for name in rows} == {*timm.list_models(), *MEDICAL}
    assert "name a part of at most 40 to see their family" in said.err and "methods" not in rows["resnet50.a1_in1k"]
    assert (rows["resnet50.a1_in1k"]["module"], rows["resnet50.a1_in1k"]["resolution"]) == ("resnet", "224")


def test_list_backbones_of_a_part_says_what_each_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".cache" / "weights").mkdir(parents=True)
    (folder / ".cache" / "weights" / "convnext_tiny.dinov3_lvd1689m.safetensors").touch()
    said = Said("list backbones Tiny_patch16_dinov3 --format json", capsys)
    (row,) = json.loads(said.out)
    assert (said.status, said.err) == (0, "")
    # 192 wide, 12 deep, 16 px patches: blocks of 12 * 192**2 and some, as the paper's table has it
    assert row["million_parameters"] == pytest.approx(12 * 12 * 192**2 / 1e6, rel=0.05)
    assert (row["width"], row["depth"], row["patch"], row["resolution"]) == (192, 12, 16, 256)
    assert (row["backbone"], row["family"]) == ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", "Eva")
    assert (row["licence"], row["weights"], row["methods"]) == (
        "fair-noncommercial-research-license",
        "hub",
        "all but ssf",
    )
    (row,) = json.loads(Said("list backbones convnext_tiny.dinov3 --format json", capsys).out)
    assert (row["weights"], row["licence"], row["patch"]) == ("cache", "dinov3-license", 32)
    (row,) = json.loads(Said("list backbones virchow2 --format json", capsys).out)  # features are twice as wide
    assert (row["width"], row["patch"], row["resolution"], row["weights"]) == (1280, 14, 224, "gated")
    (row,) = json.loads(Said("list backbones convnext_tiny.dinov3 --format json", capsys).out)
    assert row["methods"].startswith("all but ")
    assert "full" not in row["methods"].split() and "fpt" in row["methods"].split()


def test_settings_of_a_backbone_may_stand_beside_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    lora = "params --methods lora --num-classes 3 --format json --set lora.rank=2"
    settings = "--backbone-arg depth=3 embed_dim=96 --backbone-arg num_heads=3 --pool cls+avg"
    beside = Said(f"{lora} --backbone vit_tiny_patch16_224 {settings}", capsys)
    (row,) = json.loads(beside.out)
    assert (row["trainable"], row["trainable_head"]) == (3 * 2 * (96 + 288), 3 * (2 * 96 + 1))
    within = "vit_tiny_patch16_224[num_heads=3,depth=3,embed_dim=96,pool=cls+avg]"
    assert Said(f"{lora} --backbone {within}", capsys).out == beside.out


def test_list_runs_names_each_and_reports_a_damaged_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = fixed_records(resolutions=(224,), seeds=1)
    for record in stored:
        write_record(folder / "results", record)
    said = Said("list runs --format csv", capsys)
    assert said.status == 0
    assert {row["run"] for row in csv.DictReader(io.StringIO(said.out))} == {record["run_id"] for record in stored}
    (folder / "results" / "runs" / "damaged.json").write_text("{")
    for command in ("list runs", "tables", "plots"):
        said = Said(command, capsys)
        assert said.status == 1 and said.out
        assert said.err.count("\n") == 1 and "damaged.json" in said.err


@pytest.mark.parametrize("command", ["tables", "plots"])
def test_tables_and_plots_print_the_paths_they_wrote(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in fixed_records(resolutions=(224, 448), seeds=1):
        write_record(folder / "mine", record)
    said = Said(f"{command} --results mine", capsys)
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() and all((folder / line).is_file() for line in said.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "command must be one of run, advise, params, "),
        ("--method fpt", "run has no option --method; did you mean --methods?"),
        (
            "--methods fpt --seed 0 --dryrun",
            "--seed; did you mean --seeds?; run has no option --dryrun; did you mean --d",
        ),
        ("fit --margin 3", "fit has no option --margin, which is of run, advise"),
        ("--methods fpt --dry-run extra", "'extra' must belong to an option or be left out; see bench.py run -h"),
        ("--methods fpt --zzz", "run has no option --zzz; see bench.py run -h"),
        ("runn --methods fpt", "got 'runn'; did you mean run?"),
        ("--methods fpt --lr gird", "lr must be a number or grid, got 'gird'; did you mean grid?"),
        (
            "--methods fpt --lr gird --seed 0 --res 0",
            "did you mean --seeds?; res must be at least 1, got '0'; lr must be",
        ),
        ("--methods fpt --datasets nowhere --attention flash", "attention must be one of eager, sdpa, got 'flash'"),
        ("--methods fpt,lora", "names stand apart: fpt lora"),
        ("memory --precision bf61 --res x", "res must be a whole number, got 'x'; precision must be"),
        ("tables --metrics auroc", "metrics must be one of auc, "),
        ("--methods fpt --res big", "res must be a whole number, got 'big'"),
        ("--methods fpt --res 0", "res must be at least 1, got '0'"),
        ("--methods fpt --lr 0", "lr must be above 0, got '0'"),
        ("--methods fpt --lr nan", "lr must be above 0, got 'nan'"),
        ("--methods fpt --precision fp8", "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ("--methods fpt --only-missing --overwrite", "not allowed with argument"),
        (
            "--methods fpt --res 0 --epochs x --preload of",
            "res must be at least 1, got '0'; epochs must be a whole number",
        ),
        ("--methods fpt --preload of", "preload must be one of auto, on, off, got 'of'; did you mean off?"),
        ("", "methods must be named, e.g. --methods fpt lora"),
        ("--methods fpd", "did you mean fpt?"),
        ("params --methods fpd", "did you mean fpt?"),
        ("params --backbone vit_tiny_patch16_225", "vit_tiny_patch16_225'; nearest: vit_tiny_patch16_224"),
        ("params --backbone vit_tiny_patch16_224 --backbone-arg depth", "must be like depth=24, got 'depth'"),
        ("params --backbone vit_tiny_patch16_224[depth=2] --backbone-arg depth=3", "given once, got 'depth' twice"),
        ("memory --predict --pool max", "pool must be one of native, cls, avg, cls+avg, got 'max'"),
        ("fit --methods lora --backbone vit_tiny_patch16_224.dino", "(augreg_in21k_ft_in1k, augreg_in21k), got 'dino'"),
        ("list methods vit", "part of a name must be used with list backbones, got 'vit' with list methods"),
        ("list backbones nosuchnet", "part must be in the name of a backbone, got 'nosuchnet', which is in none"),
        ("--suite gone.yaml", "suite must be a file or one of "),
        ("--methods fpt --datasets nowhere", "nowhere"),
        ("tables", "no records under results/runs; run bench.py --methods"),
        ("plots", "no records under results/runs; run bench.py --methods"),
        ("list method", "backbones, runs, caches, got 'method'; did you mean methods?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(arguments, capsys)
    assert_one_line(said)
    assert message in said.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no test split", "test"),
        ("an empty class", "dark"),
        ("an unreadable image", "0.png"),
    ],
)
def test_a_bad_folder_is_one_line_that_names_the_place(
    damage: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(folder / "images")
    if damage == "no test split":
        (images / "test").rename(folder / "elsewhere")
    elif damage == "an empty class":
        for path in (images / "val" / "dark").iterdir():
            path.unlink()
    else:
        (images / "train" / "dark" / "0.png").write_bytes(b"no image")
    said = Said(shlex.join(["--methods", "linear", *TINY]), capsys)
    assert said.status == 2 and message in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_results_that_cannot_be_written_are_found_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "taken").write_text("a file, not a folder")
    said = Said(shlex.join(["--methods", "linear", *TINY, "--results", "taken"]), capsys)
    assert_one_line(said)
    assert "taken" in said.err
    assert (folder / "taken").read_text() == "a file, not a folder"


def cells(markdown: str) -> list[dict[str, str]]:
    """The rows of a printed table."""
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_dry_run_shows_the_grid_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(folder / "images")
    said = Said(
        shlex.join(["--methods", "linear", "fpt", *TINY, "--seeds", "0", "1", "--dry-run", "--verbose"]), capsys
    )
    assert said.status == 0
    linear, fpt = cells(said.out)
    assert (linear["method"], fpt["method"]) == ("linear", "fpt")
    assert int(linear["memory MiB"]) >= int(linear["training MiB"]) > 0 and float(fpt["features MiB"]) > 0
    assert (linear["minutes a run"], linear["trials"], linear["stored"]) == ("unknown", "", "")
    assert (linear["seeds"], linear["runs"], linear["to do"]) == ("0-1", "2", "2")
    assert "memory is predicted for an NVIDIA GPU" in said.err and "of images and features in all" in said.err
    assert list((folder / "results" / "runs").iterdir()) == []


def test_a_dry_run_predicts_many_settings_only_when_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(folder / "images")
    monkeypatch.setattr("benchmarks.commands.dry_run.MOST_NEW", 1)
    command = shlex.join(["--methods", "linear", "lora", *TINY, "--verbose", "--dry-run"])
    said = Said(command, capsys)
    assert {row["memory MiB"] for row in cells(said.out)} == {""} and cells(said.out)[0]["images MiB"] != ""
    assert "memory and features of 2 settings are left blank, not predicted yet" in said.err
    assert "of images and those features that are predicted in all" in said.err
    predicted = Said(f"{command} --predict-all", capsys)
    assert all(int(row["memory MiB"]) > 0 for row in cells(predicted.out)) and "blank" not in predicted.err
    assert Said(command, capsys).out == predicted.out  # stored now
    said = Said(command.replace("--dry-run", "--predict-all"), capsys)
    assert_one_line(said)
    assert "predict_all must be used with --dry-run, got it alone" in said.err


def test_a_dry_run_counts_what_is_stored_and_due(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(folder / "images")
    command = shlex.join(["--methods", "linear", *TINY, "--dry-run", "--verbose", "--seeds", "5", "0", "1", "2"])
    runs = make_plan(options_of(*shlex.split(command))).runs
    for run, state in zip(runs, ("ok", "failed", "oom", "interrupted"), strict=True):
        record = make_record("linear", state=state)
        record["run_id"] = run.config.run_id
        write_record(folder / "results", record)
    for policy, due in (("", "1"), (" --retry-failed", "2"), (" --overwrite", "4")):
        (row,) = cells(Said(command + policy, capsys).out)
        assert row["stored"] == "1 ok, 1 failed, 1 oom, 1 interrupted"
        assert (row["seeds"], row["runs"], row["to do"]) == ("0-2, 5", "4", due)


@pytest.mark.parametrize(("numbers", "text"), [([3], "3"), ([0, 1, 2, 7], "0-2, 7"), ([9, 4, 5, 1], "1, 4-5, 9")])
def test_seeds_are_shown_as_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise Stop(signal.SIGINT)

    monkeypatch.setattr("benchmarks.model.build.count_parameters", interrupt)
    said = Said("params", capsys)
    assert (said.status, said.out, said.err) == (130, "", "stopped\n")


def break_params(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the command `params`, and `tables`, which knows a results folder, end with an error."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("benchmarks.model.build.count_parameters", fail)
    monkeypatch.setattr("benchmarks.records.frame.load_frame", fail)


MENDABLE = [
    UserError("a mistake\nof yours"),
    MachineError("no GPU"),
    PermissionError(errno.EACCES, "Permission denied", "/root/x"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "gone.csv"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
]
OURS = [
    ValueError("a bug\nof ours"),
    KeyError("lr"),
    RuntimeError(),
    FileNotFoundError("no file at all"),
    AssertionError(),
]


@pytest.mark.parametrize("error", MENDABLE, ids=repr)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_params(error, monkeypatch)
    said = Said("params", capsys)
    assert_one_line(said)
    assert " ".join(str(error).split()) in said.err and list(Path().iterdir()) == []


@pytest.mark.parametrize("error", OURS, ids=repr)
def test_a_fault_of_ours_leaves_its_traceback_in_a_file(
    error: Exception, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.py", "tables", "--results", "my results"])
    break_params(error, monkeypatch)
    said = Said("tables --results 'my results'", capsys)
    assert (said.status, said.out, said.err.count("\n")) == (70, "", 1)
    (path,) = (folder / "my results" / "logs").glob("crash-*.txt")
    assert said.err.startswith(f"bench.py: something went wrong inside the suite, {type(error).__name__}")
    assert said.err.endswith(f"; please report it with {path.relative_to(folder)}\n")
    content = path.read_text()
    assert "command: bench.py tables --results 'my results'" in content and "'commit': " in content
    assert all(f"\n{name}: " in content for name in ("python", "torch", "timm", "peft"))
    assert "Traceback (most recent call last)" in content and "in fail\n" in content


def test_where_results_cannot_be_written_the_traceback_goes_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder / "temporary"))
    break_params(ValueError("a bug"), monkeypatch)
    (folder / "taken").mkdir()
    (folder / "taken" / "logs").write_text("a file, not a folder")
    assert Said("tables --results taken", capsys).status == 70
    assert len(list((folder / "temporary").glob("crash-*.txt"))) == 1
    (folder / "temporary").rename(folder / "before")
    (folder / "temporary").write_text("a file as well")
    said = Said("tables --results taken", capsys)
    assert said.status == 70 and said.err.endswith("ValueError: a bug; no file could be written that says more\n")


def test_a_parser_that_breaks_is_a_fault_of_ours_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise TypeError("no parser")

    monkeypatch.setattr("benchmarks.commands.command_line.make_parser", fail)
    assert Said("params", capsys).status == 70
    assert len(list((folder / "results" / "logs").glob("crash-*.txt"))) == 1


@pytest.mark.parametrize(
    "cells",
    [
        ["word", "1"],
        ["1", "2.5"],
        ["inf", "nan"],
        ["nan", "x"],
        ["True", "False"],
        ["True", "yes"],
        ["", ""],
        ["", "b"],
        ["1,000", "a"],
        ["-", "7"],
        [1, "a"],
        [None, "a"],
        [0.1, 22.25],
        ["a|b", "cc"],
        ["1e5", "Infinity"],
        ["é", "1"],
    ],
)
def test_a_markdown_table_is_laid_out_as_if_every_cell_were_looked_into(cells: list[Any]) -> None:
    frame = pd.DataFrame({"first": cells, "second": ["x", "y"]}, dtype="object")
    escaped = [
        [str(cell).replace("|", r"\|") if isinstance(cell, str) else cell for cell in row] for row in frame.to_numpy()
    ]
    assert markdown_table(frame) == tabulate(escaped, ["first", "second"], tablefmt="pipe", missingval="-")
