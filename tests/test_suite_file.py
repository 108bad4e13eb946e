"""Suite files: the command line in YAML, with one clear line for each mistake."""

import shlex
from pathlib import Path

import pytest

import bench
from benchmarks.commands import COMMANDS
from benchmarks.commands.run import parse, suite_options
from benchmarks.suite.suite_file import SUITES, find_suite, suite_arguments
from datasets import DATASETS
from methods import METHODS

PARSER = bench.make_parser(COMMANDS["run"])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_is_the_command_line_it_stands_for(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "methods: [fpt, lora]\nres: [224, 448]\nbatch_size: 8\nlr: 1e-3\ngrad_checkpointing: true\npreload: off",
    )
    flags = shlex.split("--methods fpt lora --res 224 448 --batch-size 8 --lr 1e-3 --grad-checkpointing --preload off")
    expected = PARSER.parse_args([*flags, "--suite", str(path)])
    assert parse(PARSER, ["--suite", str(path)]) == expected


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "methods: [fpt, lora]\nres: 512\nseeds: [0, 1, 2]\nlr: 0.1")
    args = parse(PARSER, ["--suite", str(path), "--methods", "full", "--seeds", "7", "--lr", "0.2"])
    assert (args.methods, args.res, args.seeds, args.lr) == (["full"], [512], [7], [0.2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [fpt]", r"key in .*mine\.yaml must be one of .*methods.*, got 'method'; did you mean methods\?"),
        ("batch-size: 8", r"key in .* got 'batch-size'; did you mean batch_size\?"),
        ("suite: other", r"key in .* got 'suite'"),
        ("help: true", r"key in .* got 'help'"),
        ("grad_checkpointing: 1", r"grad-checkpointing in .* must be true or false, got 1"),
        ("methods: []", r"methods in .* must be a value or a list of values, got \[\]"),
        ("methods:", r"methods in .* must be a value or a list of values, got None"),
        ("epochs: true", r"epochs in .* must be a value or a list of values, got True"),
        ("methods: {fpt: 1}", r"methods in .* must be a value or a list of values, got \{'fpt': 1\}"),
        ("epochs: [1, 2]", r"epochs in .* must be one value, got \[1, 2\]"),
        ("", r"suite file must hold options, one a line like 'epochs: 20', got .*mine\.yaml"),
        ("- fpt", r"suite file must hold options, one a line like 'epochs: 20'"),
        ("methods: [fpt", r"suite file must be YAML, got .*mine\.yaml"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        suite_arguments(write(tmp_path, text), PARSER)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_a_mistake_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="suite file must be YAML"):
        suite_arguments(path, PARSER)


def test_a_suite_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "methods: fpt")
    assert find_suite(str(path)) == path
    assert find_suite("paper") == SUITES / "paper.yaml"
    with pytest.raises(ValueError, match=r"suite must be one of .*paper.*, got 'papers'; did you mean paper\?"):
        find_suite("papers")
    with pytest.raises(ValueError, match=r"suite must be a file or one of .*, got 'gone\.yaml'; there is no such file"):
        find_suite("gone.yaml")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_that_comes_along_is_valid(path: Path) -> None:
    command = next((name for name in COMMANDS if f"bench.py {name} --suite" in path.read_text()), "run")
    parser = bench.make_parser(COMMANDS[command])
    args = parser.parse_args(suite_arguments(path, parser))
    assert set(args.methods) <= {*METHODS, "all"}
    if command == "run":
        assert set(args.datasets or []) <= set(DATASETS)
        assert suite_options(args).methods


def test_the_paper_suite_is_the_papers_protocol() -> None:
    args = parse(PARSER, ["--suite", "paper"])
    assert set(args.methods) == {"full", "linear", "vpt", "adapter", "lora", "fpt", "fpt_plus"}
    assert set(args.datasets) == {name for name, info in DATASETS.items() if not info.synthetic}
    assert (args.res, args.seeds, args.epochs, args.batch_size) == ([512], [0, 1, 2], 20, 16)
    assert (args.backbone, args.precision, args.attention, args.lr) == ("vit_base_patch16_384", "fp32", "eager", [])


def test_the_default_suite_gives_every_method_a_grid_of_its_own() -> None:
    args = parse(PARSER, ["--suite", "default"])
    assert (args.lr, args.seeds, args.trial_seeds, args.stop_hopeless) == (["grid"], [0, 1, 2], "first", False)
    assert (args.precision, args.attention, args.datasets) == (None, "sdpa", None)
