"""bench.py reproduce: nothing starts unasked, and what was asked for ends as the papers' table."""

from pathlib import Path

import pytest
from bench_process import options_of
from inside import finish_inside
from tiny_images import make_images

from bench import main

SUITE = """
methods: [linear]
datasets: images
weights: none
backbone: vit_tiny_patch16_224
res: 32
batch_size: 4
device: cpu
epochs: 1
seeds: [0]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_images(tmp_path / "images")
    (tmp_path / "mine.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_lists_first_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "mine.yaml", "--verbose"]) == 0
    out, err = capsys.readouterr()
    (row,) = [line for line in out.splitlines() if "linear" in line]
    assert "memory MiB" in out and row.split("|")[-2].strip() == "1"
    assert "disk: " in err and "nothing was started; the same command with --yes starts what is to do" in err
    assert list((folder / "results" / "runs").glob("*.json")) == []
    assert main(["reproduce", "mine.yaml", "--yes", "--dry-run"]) == 2
    assert "yes must be used without --dry-run, got both" in capsys.readouterr().err


def test_it_runs_what_is_missing_and_writes_the_table(folder: Path) -> None:
    ended = finish_inside(folder, "reproduce", "mine.yaml", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert len(list((folder / "results" / "runs").glob("*.json"))) == 1
    assert "Linear probe" in (folder / "results" / "tables" / "paper.md").read_text()
    assert "results/tables/paper.md" in ended.stderr


def test_options_win_over_the_suite_and_its_last_option_takes_no_more(folder: Path) -> None:
    options = options_of("mine.yaml", "--epochs", "3", command="reproduce")
    assert (options.epochs, options.seeds) == (3, (0,))
