"""Suite files: the options of a suite in YAML, with one clear line for each mistake."""

import shlex
from pathlib import Path

import pytest
from bench_process import options_of

from benchmarks.commands import COMMANDS
from benchmarks.errors import UserError
from benchmarks.model.choose import choose_variants
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.suite_file import SUITES, find_suite, read_suite_file
from datasets import DATASETS
from methods import IDEAS, METHODS


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, *typed: str) -> SuiteOptions:
    return options_of("--suite", str(write(tmp_path, text)), *typed)


def test_a_file_is_the_command_line_it_stands_for(tmp_path: Path) -> None:
    text = """
methods: [fpt, lora]
res: [224, 448, 224]
batch_size: 8
lr: [1e-3, 3e-4]
grad_checkpointing: true
preload: off
datasets: 2024
set: lora.rank=8
launcher: slurm
slurm: {minutes: 240, gpus: 0, partition: long}
overwrite: true
"""
    flags = shlex.split(
        "--methods fpt lora --res 224 448 --batch-size 8 --lr 1e-3 3e-4 --grad-checkpointing --preload off --datasets "
        "2024 --set lora.rank=8 --launcher slurm --slurm minutes=240 gpus=0 partition=long --overwrite"
    )
    options = read(tmp_path, text)
    assert options == options_of(*flags)
    assert (options.lr, options.preload, options.datasets, options.policy) == (
        (1e-3, 3e-4),
        "off",
        ("2024",),
        "overwrite",
    )
    assert options.slurm is not None and (options.slurm.minutes, options.slurm.device) == (240, "cpu")


def test_a_backbone_in_a_file_has_its_settings_there(tmp_path: Path) -> None:
    text = "methods: lora\nbackbone: vit_tiny_patch16_224\nbackbone_arg: [depth=2, init_values=1e-5]\npool: cls+avg\n"
    options = read(tmp_path, f"{text}normalization: backbone")
    assert options.whole_backbone == "vit_tiny_patch16_224[depth=2,init_values=1e-05,pool=cls+avg]"
    assert options.normalization == "backbone"
    typed = read(tmp_path, text, "--backbone", "resnet50")  # what the file says of another is none of it
    assert (typed.whole_backbone, typed.normalization) == ("resnet50", "dataset")
    assert read(tmp_path, text, "--pool", "avg").pool == "avg"


def test_the_command_line_wins(tmp_path: Path) -> None:
    text = "methods: [fpt, lora]\nres: 512\nseeds: [0, 1, 2]\nlr: 0.1\nretry_failed: true"
    options = read(tmp_path, text, "--methods", "full", "--seeds", "7", "--lr", "0.2", "--overwrite")
    assert (options.methods, options.res, options.seeds, options.lr) == (("full",), (512,), (7,), (0.2,))
    assert options.policy == "overwrite" and read(tmp_path, text).policy == "retry-failed"


def test_typed_settings_add_to_the_files_and_those_of_methods_left_out_go(tmp_path: Path) -> None:
    text = "methods: [full, lora]\nset: [full.layer_decay=0.75, lora.rank=4]"
    assert read(tmp_path, text, "--set", "lora.rank=8").set == ("full.layer_decay=0.75", "lora.rank=8")
    assert read(tmp_path, text, "--methods", "lora", "vpt").set == ("lora.rank=4",)
    assert read(tmp_path, text, "--methods", "all").set == ("full.layer_decay=0.75", "lora.rank=4")


def test_what_is_neither_stated_nor_typed_has_its_default() -> None:
    assert options_of("--methods", "fpt") == SuiteOptions(methods=("fpt",))
    assert SuiteOptions().policy == "only-missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [fpt]", r"key in .*mine\.yaml must be one of .*methods.*, got 'method'; did you mean methods\?"),
        ("batch-size: 8", r"key in .* got 'batch-size'; did you mean batch_size\?"),
        ("suite: other", r"key in .* got 'suite'"),
        ("help: true", r"key in .* got 'help'"),
        ("res: 224\nres: 512", r"suite file must be YAML, got '.*mine\.yaml': key must be given once, got 'res' twice"),
        ("slurm: {cpus: 1, cpus: 2}", r"suite file must be YAML, got .*: key must be given once, got 'cpus' twice"),
        ("grad_checkpointing: 1", r"grad_checkpointing in .*mine\.yaml must be true or false, got '1'"),
        ("methods: []", r"methods in .* must be a value or a list of values, got \[\]"),
        ("methods:", r"methods in .* must be a value or a list of values, got None"),
        ("epochs: true", r"epochs in .* must be a whole number, got True"),
        ("epochs: 1.5", r"epochs in .* must be a whole number, got '1\.5'"),
        ("epochs: 0", r"epochs in .* must be at least 1, got '0'"),
        ("methods: {fpt: 1}", r"methods in .* must be a value or a list of values, got \{'fpt': '1'\}"),
        ("epochs: [1, 2]", r"epochs in .* must be a whole number, got \['1', '2'\]"),
        ("hang_minutes: true", r"hang_minutes in .* must be a number, got True"),
        ("lr: [1e-3, -1]", r"lr in .* must be above 0, got '-1'"),
        ("lr: [grid, 1e-3]", r"lr must be rates or the word grid alone, got both; leave one out"),
        ("attention: spda", r"attention in .* must be one of eager, sdpa, got 'spda'; did you mean sdpa\?"),
        ("backbone: true", r"backbone in .* must be a text, got True"),
        ("results: [a, b]", r"results in .* must be a path, got \['a', 'b'\]"),
        (
            "slurm: {hours: 5, cpus: 0}",
            r"slurm must have minutes, .*; cpus of slurm in .* must be at least 1, got '0'; key of",
        ),
        (
            "res: x\nepochs: y",
            r"res in .* must be a whole number, got 'x'; epochs in .* must be a whole number, got 'y'",
        ),
        ("", r"suite file must hold options, one a line like 'epochs: 20', got .*mine\.yaml"),
        ("- fpt", r"suite file must hold options, one a line like 'epochs: 20'"),
        ("methods: [fpt", r"suite file must be YAML, got .*mine\.yaml"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_suite_file(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_a_mistake_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="suite file must be YAML"):
        read_suite_file(path)


def test_a_suite_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "methods: fpt")
    assert find_suite(str(path)) == path
    assert find_suite("paper") == SUITES / "paper.yaml"
    with pytest.raises(UserError, match=r"suite must be one of .*paper.*, got 'papers'; did you mean paper\?"):
        find_suite("papers")
    with pytest.raises(UserError, match=r"suite must be a file or one of .*, got 'gone\.yaml'; there is no such file"):
        find_suite("gone.yaml")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_that_comes_along_is_valid(path: Path) -> None:
    command = next((name for name in COMMANDS if f"bench.py {name} --suite" in path.read_text()), "run")
    options = options_of("--suite", str(path), command=command)
    variants, _ = choose_variants(options.methods, options.set, options.whole_backbone)
    assert variants
    assert set(options.datasets) <= set(DATASETS)


def test_the_paper_suite_is_the_papers_protocol() -> None:
    options = options_of("--suite", "paper")
    assert set(options.methods) == {"full", "linear", "vpt", "adapter", "lora", "fpt", "fpt_plus"}
    assert set(options.datasets) == {name for name, info in DATASETS.items() if not (info.synthetic or info.findings)}
    assert (options.res, options.seeds, options.epochs, options.batch_size) == ((512,), (0, 1, 2), 20, 16)
    assert (options.backbone, options.precision, options.attention) == ("vit_base_patch16_384", "fp32", "eager")
    assert options.lr == ()


def test_the_default_suite_gives_every_method_a_grid_of_its_own() -> None:
    options = options_of("--suite", "default")
    assert (options.lr, options.seeds, options.trial_seeds, options.stop_hopeless) == (
        "grid",
        (0, 1, 2),
        "first",
        False,
    )
    assert (options.precision, options.attention, options.datasets) == (None, "sdpa", ())


def test_warm_up_and_layer_decay_are_the_default_suites_and_decay_of_all_the_papers() -> None:
    default, paper = options_of("--suite", "default"), options_of("--suite", "paper")
    assert (default.warmup_epochs, default.set, default.decay_all) == (2, ("full.layer_decay=0.75",), False)
    assert (paper.warmup_epochs, paper.set, paper.decay_all) == (0, (), True)


def test_the_suite_of_side_methods_has_those_with_frozen_features_on_one_budget() -> None:
    options = options_of("--suite", "side_methods")
    assert set(options.methods) <= {name for name, method in METHODS.items() if method.has_extractor}
    assert {name for name, idea in IDEAS.items() if idea == "side"} | {"linear"} <= set(options.methods)
    assert (options.set, options.preload, options.lr) == ((), "on", "grid")
