"""Choosing a learning rate: on validation alone, alike for every method, and told in the record."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_process import TINY, options_of, records
from fixed_records import make_record
from inside import finish_inside
from tiny_images import make_images

from benchmarks.suite.plan import Plan, make_plan
from benchmarks.suite.tuning import choose, rivals_of, tuned_runs
from benchmarks.training.loop import is_hopeless
from docs.examples import ssf
from methods import METHODS

GRID = ["--lr", "1e-5", "1e-2", "--seeds", "0", "1", "--epochs", "2"]


def plan(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> Plan:
    monkeypatch.chdir(folder)
    return make_plan(options_of("--methods", "linear", "lora", *TINY, *arguments.split()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny images, and two methods tuned on them over two rates, trained with two seeds."""
    folder = tmp_path_factory.mktemp("tuning")
    make_images(folder / "images")
    ended = finish_inside(folder, "--methods", "linear", "lora", *TINY, *GRID)
    assert ended.returncode == 0, ended.stderr
    (folder / "stderr").write_text(ended.stderr)
    return folder


def trials(folder: Path, method: str) -> list[dict[str, Any]]:
    stored = [json.loads(path.read_text()) for path in (folder / "results/trials/runs").glob("*.json")]
    return [record for record in stored if record["run"]["config"]["method"] == method]


def test_a_damaged_record_of_a_trial_is_no_rival(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell, _) = plan(folder, monkeypatch, " ".join(GRID)).cells
    first, second = cell.trials
    runs = shutil.copytree(folder / "results/trials/runs", tmp_path / "trials/runs")
    assert [len(aucs) for aucs in rivals_of(second, cell, tmp_path)] == [2]
    (runs / f"{first.config.run_id}.json").write_bytes(b"{")
    assert rivals_of(second, cell, tmp_path) == []


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_the_rate_with_the_best_validation_auc_trains_every_seed(folder: Path, method: str) -> None:
    tried = {record["run"]["config"]["lr"]: record for record in trials(folder, method)}
    assert set(tried) == {1e-5, 1e-2}
    best = max(sorted(tried), key=lambda rate: tried[rate]["measurements"]["val"]["auc"])
    runs = [json.loads(path.read_text()) for path in sorted((folder / "results/runs").glob(f"*-{method}-*.json"))]
    assert [run["run"]["config"]["seed"] for run in runs] == [0, 1]
    for run in runs:
        assert run["run"]["config"]["lr"] == best and run["run"]["config"]["lr_grid"] == [1e-5, 1e-2]
        tuning = run["run"]["tuning"]
        assert (tuning["grid"], tuning["num_trials"], tuning["seeds"]) == ([1e-5, 1e-2], 2, [0])
        assert (tuning["chosen"], tuning["at_edge"]) == (best, True)
        assert sorted(tuning["runs"]) == sorted(record["run_id"] for record in tried.values())
        for rate, record in tried.items():
            assert tuning["val_auc"][f"{rate:g}"] == record["measurements"]["val"]["auc"]


def test_a_trial_never_reads_the_test_split(folder: Path) -> None:
    for record in trials(folder, "linear") + trials(folder, "lora"):
        assert record["status"]["state"] == "ok" and record["run"]["config"]["seed"] == 0
        assert "test" not in record["measurements"] and "test" not in record["measurements"]["seconds"]
        assert not (folder / f"results/trials/runs/{record['run_id']}.predictions.csv").exists()


def test_trials_are_no_results(folder: Path) -> None:
    assert len(records(folder / "results")) == 2
    text = (folder / "results/tables/results.md").read_text()
    assert text.count("| LoRA") == text.count("| Linear probe") == 1
    assert "4 trials and 4 runs, 0 of them stored already" in (folder / "stderr").read_text()


def test_the_same_command_again_does_nothing(folder: Path) -> None:
    ended = finish_inside(folder, "--methods", "linear", "lora", *TINY, *GRID)
    assert ended.returncode == 0
    assert "4 trials and 4 runs, 8 of them stored already" in ended.stderr
    assert "started" not in ended.stderr


def test_a_dry_run_shows_trials_and_what_was_chosen(folder: Path) -> None:
    ended = finish_inside(folder, "--methods", "linear", "lora", *TINY, *GRID, "--dry-run")
    chosen = {name: record["run"]["tuning"]["chosen"] for name, record in records(folder / "results").items()}
    for name, rate in chosen.items():
        (row,) = [line for line in ended.stdout.splitlines() if f"| {name} " in line]
        assert f"| {rate:g}, best of 2 " in row and "| 4 ok " in row
    other = finish_inside(folder, "--methods", "linear", *TINY, "--lr", "1e-4", "1e-3", "1e-2", "--dry-run")
    *_, rate, _, _, _, _, _, num_trials, num_runs, _, due, _ = other.stdout.splitlines()[-1].split("|")
    assert [cell.strip() for cell in (rate, num_trials, num_runs, due)] == ["best of 3", "3", "1", "4"]


def test_every_method_has_five_rates_over_a_factor_of_100_with_its_default_inside() -> None:
    for method in (*METHODS.values(), ssf.METHOD):
        config: Any = method.config
        rates = np.array(config.lr_grid)
        assert len(rates) == 5 and rates[-1] / rates[0] == pytest.approx(100), method.name
        assert ((rates[1:] / rates[:-1] > 2.9) & (rates[1:] / rates[:-1] < 3.5)).all(), method.name
        assert config().lr in rates[1:-1], method.name


def test_the_budget_is_the_same_for_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    for arguments, per_cell in (("--lr grid", 5), ("--lr grid --trial-seeds all", 15), ("--lr 1e-3 1e-4 1e-3", 2)):
        made = plan(tmp_path, monkeypatch, f"{arguments} --seeds 0 1 2")
        assert [len(cell.trials) for cell in made.cells] == [per_cell] * 2
        assert len(made.runs) == 6 and tuned_runs(made.cells[0], tmp_path) is None
    assert {run.config.lr for run in plan(tmp_path, monkeypatch, "--lr 0.5").runs} == {0.5}
    with pytest.raises(ValueError, match="lr must be rates or the word grid alone, got both"):
        plan(tmp_path, monkeypatch, "--lr grid 1e-3")


def test_choosing_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    cell = plan(tmp_path, monkeypatch, "--lr 1e-4 1e-3 1e-2 1e-1 --seeds 0 1 --trial-seeds all").cells[0]
    aucs = {0: (0.6, 0.7, 0.9, 0.9), 1: (0.6, 0.9, 0.7, None)}  # None: diverged

    def stored(seed: int) -> list[dict[str, Any]]:
        made = []
        for auc in aucs[seed]:
            record = make_record("lora", state="diverged" if auc is None else "ok")
            record["measurements"]["val"] = {"auc": auc}
            made.append(record)
        return made

    tuning = choose(cell.trials, [*stored(0), *stored(1)])
    assert (tuning["chosen"], tuning["at_edge"]) == (1e-3, False)  # a draw with 1e-2; 1e-1 is out
    assert tuning["val_auc"] == pytest.approx({"0.0001": 0.6, "0.001": 0.8, "0.01": 0.8, "0.1": None})
    nothing = [make_record("lora", state="oom") for _ in cell.trials]
    tuning = choose(cell.trials, nothing)
    assert (tuning["chosen"], tuning["at_edge"]) == (1e-2, False)


@pytest.mark.parametrize(
    ("aucs", "hopeless"),
    [
        ([0.5], False),  # before half of four epochs
        ([0.5, 0.6], True),
        ([0.5, 0.6, 0.65], True),
        ([0.5, 0.71], False),  # above the median, 0.7, of what the others had by then
        ([0.5, 0.6, 0.6, 0.6], False),  # it is over anyway
    ],
)
def test_a_trial_below_the_median_at_half_its_epochs_is_hopeless(aucs: list[float], hopeless: bool) -> None:
    rivals = [[0.6, 0.7, 0.95, 0.99], [0.8, 0.6, 0.9, 0.9], [0.55, 0.6]]
    assert is_hopeless(aucs, 4, rivals) == hopeless
    assert not is_hopeless(aucs, 4, rivals[:1])
