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

from benchmarks.records.record import load_records, write_record
from benchmarks.records.stored import StoredStates, trial_results
from benchmarks.suite import slurm
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import Plan, PlannedRun
from benchmarks.suite.suite import Work, _Suite
from benchmarks.suite.tuning import choose, tuned_runs, val_aucs_of
from benchmarks.training.loop import is_hopeless
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
    first, _ = cell.trials
    runs = shutil.copytree(folder / "results/trials/runs", tmp_path / "trials/runs")
    assert [len(aucs) for aucs in val_aucs_of([first], tmp_path)] == [2]
    stored = StoredStates(tmp_path / "trials", "only-missing")
    assert not stored.is_due(first.config.run_id)
    (runs / f"{first.config.run_id}.json").write_bytes(b"{")
    assert stored.is_due(first.config.run_id)  # so that `second` would wait for it


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_the_rate_with_the_best_validation_auc_trains_every_seed(folder: Path, method: str) -> None:
    tried = {record["run"]["config"]["lr"]: record for record in trials(folder, method)}
    assert set(tried) == {1e-5, 1e-2}
    validated = {rate: record["measurements"]["val"] for rate, record in tried.items()}
    (_, _, best) = max((record["auc"], -record["loss"], rate) for rate, record in validated.items())
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
            assert tuning["val_loss"][f"{rate:g}"] == record["measurements"]["val"]["loss"]
            epoch = record["run"]["selection"]["best_epoch"] - 1
            assert record["measurements"]["history"][epoch]["val_loss"] == record["measurements"]["val"]["loss"]


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
    ended = finish_inside(folder, "--methods", "linear", "lora", *TINY, *GRID, "--dry-run", "--verbose")
    chosen = {name: record["run"]["tuning"]["chosen"] for name, record in records(folder / "results").items()}
    for name, rate in chosen.items():
        (row,) = [line for line in ended.stdout.splitlines() if f"| {name} " in line]
        assert f"| {rate:g}, best of 2 " in row and "| 4 ok " in row
    other = finish_inside(
        folder, "--methods", "linear", *TINY, "--lr", "1e-4", "1e-3", "1e-2", "--dry-run", "--verbose"
    )
    *_, rate, _, _, _, _, _, num_trials, num_runs, _, due, _ = other.stdout.splitlines()[-1].split("|")
    assert [cell.strip() for cell in (rate, num_trials, num_runs, due)] == ["best of 3", "3", "1", "4"]


def test_every_method_that_trains_has_five_rates_over_a_factor_of_100_with_its_default_inside() -> None:
    for method in (method for method in METHODS.values() if not method.gradient_free):
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
    assert set(tuning["val_loss"].values()) == {None}  # as before losses were stored
    losses = (0.9, 0.5, 0.4, 0.1)
    with_losses = [*stored(0), *stored(1)]
    for record, loss in zip(with_losses, losses * 2, strict=True):
        record["measurements"]["val"]["loss"] = loss
    tuning = choose(cell.trials, with_losses)
    assert (tuning["chosen"], tuning["at_edge"]) == (1e-2, False)  # the lower loss decides the draw
    assert tuning["val_loss"] == pytest.approx({"0.0001": 0.9, "0.001": 0.5, "0.01": 0.4, "0.1": None})
    perfect = [make_record("lora") for _ in cell.trials]
    for record, loss in zip(perfect, losses * 2, strict=True):
        record["measurements"]["val"] = {"auc": 1.0, "loss": loss}
    assert choose(cell.trials, perfect)["chosen"] == 1e-1
    nothing = [make_record("lora", state="oom") for _ in cell.trials]
    tuning = choose(cell.trials, nothing)
    assert (tuning["chosen"], tuning["at_edge"]) == (1e-2, False)


CURVES = {  # validation AUC by epoch of each rate; the third fails, another curve each seed
    1e-5: [0.6, 0.7, 0.95, 0.99],
    1e-4: [0.8, 0.6, 0.9, 0.9],
    1e-3: None,
    1e-2: [0.5, 0.65, 0.9, 0.9],
    1e-1: [0.5, 0.69, 0.99, 0.99],
}


class Processes:
    """Suites that share trials, as processes would; each does a trial by its curve, stopped if it is hopeless.

    Args:
        cut_in: At which trials to come another suite does what it can in the meantime.
    """

    def __init__(self, made: Plan, results: Path, cut_in: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.results, self.cut_in, self.num_done = results, cut_in, 0
        self.suites = [_Suite(Work.make(made, results, "only-missing", 60)) for _ in range(2)]
        self.cell = made.cells[0]
        monkeypatch.setattr(_Suite, "_run", lambda suite, _, run, rivals, __: self.train(suite, run, rivals))

    def train(self, suite: _Suite, run: PlannedRun, rivals: list[list[float]]) -> None:
        self.num_done += 1
        suite.num_done += 1
        if self.num_done - 1 in self.cut_in:
            self.suites[suite is self.suites[0]]._do_cell(1, self.cell)
        if not run.config.trial:
            return
        curve, record = CURVES[run.config.lr or 0], make_record("lora", state="ok")
        if curve is None:
            record = make_record("lora", state="diverged")
        else:
            curve = [value - run.config.seed / 10 for value in curve]
            lengths = [n for n in range(1, 5) if is_hopeless(curve[:n], 4, rivals)] or [4]
            history = [{"epoch": i + 1, "val_auc": value} for i, value in enumerate(curve[: lengths[0]])]
            record["measurements"] |= {"history": history, "val": {"auc": max(curve[: lengths[0]])}}
        write_record(trial_results(self.results), record | {"run_id": run.config.run_id})

    def lengths(self) -> dict[tuple[int, float], int]:
        """Epochs of each trial."""
        states = {run.config.run_id: (run.config.seed, run.config.lr or 0) for run in self.cell.trials}
        stored, _ = load_records(trial_results(self.results))
        return {states[record["run_id"]]: len(record["measurements"].get("history", [])) for record in stored}


@pytest.mark.parametrize("cut_in", [set(), {0}, {1}, {0, 1, 2}, {3, 5}, set(range(10))])
def test_what_is_hopeless_depends_on_the_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_in: set[int]
) -> None:
    make_images(tmp_path / "images")
    rates = " ".join(map(str, CURVES))
    made = plan(tmp_path, monkeypatch, f"--lr {rates} --seeds 0 1 --trial-seeds all --epochs 4 --stop-hopeless")
    processes = Processes(made, tmp_path / "results", cut_in, monkeypatch)
    for _ in range(20):
        ended = [suite._do_cell(1, processes.cell) for suite in processes.suites]
        if all(ended):
            break
    # With two rivals the bar is at 0.75; with three, one of them stopped at 0.65, at 0.7.
    expected = {1e-5: 4, 1e-4: 4, 1e-3: 0, 1e-2: 2, 1e-1: 2}
    assert processes.lengths() == {(seed, rate): length for seed in (0, 1) for rate, length in expected.items()}


def test_trials_that_wait_for_one_another_are_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    arguments = "--lr 1e-3 1e-2 1e-1 --seeds 0 1 --trial-seeds all"
    for flags, sizes in (("", [1] * 6), ("--stop-hopeless", [3, 3])):
        made = plan(tmp_path, monkeypatch, f"{arguments} {flags}")
        (cell, _) = made.cells
        work = Work.make(Plan([cell], []), tmp_path / "results", "only-missing", 60)
        jobs = [cell.trials for cell, _ in slurm._trials(work)]
        assert list(map(len, jobs)) == sizes
        assert {trial.config.run_id for job in jobs for trial in job} == {trial.config.run_id for trial in cell.trials}
        assert all(len({trial.config.seed for trial in job}) == 1 for job in jobs)


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
