"""A value of YAML is what stands there, in suite files and in `--set`."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_process import options_of

from benchmarks.errors import UserError
from benchmarks.model.choose import method_options
from benchmarks.model.method_config import make_config
from benchmarks.storage.plain_yaml import numbers, read_yaml

READ = {  # as it stands, with what YAML 1.1 takes it for
    "010": 8,
    "1:30": 90,
    "0x1F": 31,
    "0b11": 3,
    "1_000": 1000,
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "1.50": 1.5,
    ".5": 0.5,
    "20": 20,
}


@pytest.mark.parametrize("text", READ)
def test_what_stands_there_is_the_value(text: str) -> None:
    assert yaml.safe_load(text) == READ[text], "the trap"
    assert read_yaml(text) == text
    assert read_yaml(f"a: [{text}]") == {"a": [text]}


def test_dates_are_text_too_and_tags_change_nothing() -> None:
    assert read_yaml("a: 2024-01-31\nb: !!int 010\nc: !!float 1:30") == {"a": "2024-01-31", "b": "010", "c": "1:30"}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'true'", "true")]
)
def test_truth_and_nothing_are_no_text(text: str, value: Any) -> None:
    assert read_yaml(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-3", -3),
        ("0", 0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1e-3", 1e-3),
        ("2.", 2.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("[1, .5]", [1, 0.5]),
    ]
    + [(text, text) for text in ("010", "1:30", "1_000", "0x10", "yes", "1e", "--1", "9" * 31)],
)
def test_numbers_of_set_are_those_that_can_mean_nothing_else(text: str, value: Any) -> None:
    found = numbers(read_yaml(text))
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 010", "epochs in .* must be a whole number without zeros in front, got '010'"),
        ("epochs: 1:30", "epochs in .* must be a whole number, got '1:30'"),
        ("hang_minutes: 1:30", "hang_minutes in .* must be a number, got '1:30'"),
        ("epochs: 0x10", "epochs in .* must be a whole number, got '0x10'"),
        ("epochs: 1e1", "epochs in .* must be a whole number, got '1e1'"),
        ("slurm: {minutes: 1:30}", "minutes of slurm in .* must be a whole number, got '1:30'"),
        ("grad_checkpointing: yes", "grad_checkpointing in .* must be true or false, got 'yes'"),
        ("grad_checkpointing: on", "grad_checkpointing in .* must be true or false, got 'on'"),
        ("epochs: 3\nepochs: 4", "key must be given once, got 'epochs' twice"),
        ("set: [lora.rank=4, lora.rank=8]", "set must give each option once, got 'lora.rank=4' and 'lora.rank=8'"),
        ("track: null", "track in .* must be a value or a list of values, got None"),
        ("preload: true", "preload in .* must be one of auto, on, off, got True"),
    ],
)
def test_a_suite_file_says_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"methods: lora\n{text}")
    with pytest.raises(UserError, match=message):
        options_of("--suite", str(path))


def test_a_suite_file_reads_as_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods: lora\ndatasets: [2024, 010, 1.50, no, 2024-01-31, 1e3, on]\nlr: [.5, 1e-3]\npreload: off\n"
        "hang_minutes: 1e3\nepochs: 1_000"
    )
    options = options_of("--suite", str(path))
    assert options.datasets == ("2024", "010", "1.50", "no", "2024-01-31", "1e3", "on")
    assert (options.lr, options.preload, options.hang_minutes, options.epochs) == ((0.5, 1e-3), "off", 1000, 1000)


@pytest.mark.parametrize(("value", "rule"), [("010", "a whole number"), ("1:30", "a whole number"), ("yes", "a whole")])
def test_set_says_so(value: str, rule: str) -> None:
    changed = method_options([f"lora.rank={value}"], ["lora"])["lora"]
    with pytest.raises(UserError, match=f"rank of lora must be {rule}.*, got '{value}'"):
        make_config("lora", changed)


def test_an_option_set_twice_is_refused_however_it_is_typed(tmp_path: Path) -> None:
    message = "set must give each option once, got 'lora.rank=4' and 'lora.rank=8'"
    for typed in (["--set", "lora.rank=4", "lora.rank=8"], ["--set", "lora.rank=4", "--set", "lora.rank=8"]):
        with pytest.raises(UserError, match=message):
            options_of("--methods", "lora", *typed)
    with pytest.raises(UserError, match=message):
        method_options(["lora.rank=4", "lora.rank=8"], ["lora"])
    assert options_of("--methods", "lora", "--set", "lora.rank=4", "--set", "lora.lr=1").set == (
        "lora.rank=4",
        "lora.lr=1",
    )
    with pytest.raises(UserError, match=r"set must be like lora.rank=8, got 'lora.rank='"):
        options_of("--methods", "lora", "--set", "lora.rank=")
