"""Which models runs keep, what a full disk or a failed rerun does to them, and how they are listed and removed."""

import csv
import hashlib
import io
import json
import stat
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from bench_process import TINY, options_of
from inside import finish_inside
from small_backbones import SMALL
from tiny_images import make_images

from benchmarks.errors import MachineError, UserError
from benchmarks.inference.inventory import stored_models
from benchmarks.inference.stored_models import best_run, store_with_model
from benchmarks.inference.trained import load_run
from benchmarks.records.record import kept_models, model_path, write_record
from benchmarks.storage.files import write_atomic
from benchmarks.suite.plan import make_plan
from benchmarks.suite.run import Run

RUN = [*TINY, "--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    make_images(root / "images")
    return root


def run(folder: Path, *arguments: str, results: str = "results") -> "subprocess.CompletedProcess[str]":
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        return finish_inside(folder, *arguments, *RUN, "--results", results)


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((results / "runs").glob("[!.]*.json"))]


def aucs(results: Path) -> dict[str, tuple[float, float]]:
    """Validation AUC and loss, the lower one first, by run."""
    found = {record["run_id"]: record["measurements"]["val"] for record in records(results)}
    return {run_id: (val["auc"], -val["loss"]) for run_id, val in found.items()}


def test_by_default_all_are_kept_but_of_full_fine_tuning_the_best_alone(folder: Path) -> None:
    ended = run(folder, "--methods", "linear", "bitfit", "full", "--seeds", "0", "1", "2")
    assert ended.returncode == 0, ended.stderr
    kept, scores = kept_models(folder / "results"), aucs(folder / "results")
    full = {run_id: score for run_id, score in scores.items() if "-full-" in run_id}
    assert len(full) == 3 and len(kept) == 7
    assert [run_id for run_id in kept if run_id in full] == [max(full, key=lambda run_id: full[run_id])]
    for record in records(folder / "results"):
        path = model_path(folder / "results", record["run_id"])
        if path.exists():
            data = path.read_bytes()
            assert record["model_bytes"] == len(data) and stat.S_IMODE(path.stat().st_mode) == 0o600
            assert record["model_sha256"] == hashlib.sha256(data).hexdigest()
    assert best_run(folder / "results")["run_id"] == max(kept, key=lambda run_id: scores[run_id])


def test_a_better_one_takes_the_place_of_the_best_whenever_it_comes(folder: Path) -> None:
    """Whatever their order: the worst first, then the best, then the one between."""
    scores = {run_id: score for run_id, score in aucs(folder / "results").items() if "-full-" in run_id}
    ranked = sorted(scores, key=lambda run_id: scores[run_id])
    for place in (0, 2, 1):
        seed = ranked[place].rpartition("-s")[2].partition("-")[0]
        assert run(folder, "--methods", "full", "--seeds", seed, results="ranked").returncode == 0
        assert kept_models(folder / "ranked") == [ranked[0 if place == 0 else 2]]
    with pytest.raises(
        UserError, match=r"it was removed, or gave way to a better one\); run it again with --overwrite"
    ):
        load_run(folder / "ranked", ranked[0])


@pytest.mark.parametrize(("policy", "number"), [("all", 4), ("best", 1), ("none", 0)])
def test_what_is_kept_is_no_part_of_a_run(folder: Path, policy: str, number: int) -> None:
    command = ("--methods", "linear", "full", "--seeds", "0", "1", "--keep-models", policy)
    assert run(folder, *command, results=policy).returncode == 0
    scores = aucs(folder / policy)
    kept = kept_models(folder / policy)
    assert len(kept) == number and scores.keys() <= aucs(folder / "results").keys()
    if policy == "best":
        assert kept == [max(scores, key=lambda run_id: scores[run_id])]
    stored = [record for record in records(folder / policy) if "model_sha256" in record]
    assert {record["run_id"] for record in stored} >= {*kept} and bool(stored) == bool(number)


def test_the_option_changes_no_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    plans = [make_plan(options_of("--methods", "full", *RUN, "--keep-models", kind)) for kind in ("all", "none")]
    assert plans[0].runs[0].config.run_id == plans[1].runs[0].config.run_id
    assert options_of("--methods", "full").keep_models == "lean"


def test_trials_keep_nothing(folder: Path) -> None:
    ended = run(folder, "--methods", "linear", "--lr", "1e-3", "1e-2", "--keep-models", "all", results="tuned")
    assert ended.returncode == 0
    assert len(kept_models(folder / "tuned")) == 1 and kept_models(folder / "tuned" / "trials") == []


def test_the_same_run_makes_the_same_bytes_and_a_failed_rerun_leaves_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--methods", "bitfit", "--seeds", "0", "--overwrite")
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if "-bitfit-s0" in run_id]
    path = model_path(folder / "results", run_id)
    before, inode = path.read_bytes(), path.stat().st_ino
    with monkeypatch.context() as patched:
        patched.setattr(Run, "execute", lambda _: 1 / 0)
        assert run(folder, *command).returncode == 1
    assert path.read_bytes() == before and path.stat().st_ino == inode
    assert run(folder, *command).returncode == 0
    assert path.read_bytes() == before and path.stat().st_ino != inode


def test_a_disk_that_cannot_hold_the_model_costs_the_model_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: bytes, **more: Any) -> Path:
        if ".model." in path.name:
            raise MachineError("No space left on device")
        return write_atomic(path, data, **more)

    monkeypatch.setattr("benchmarks.records.record.write_atomic", write)
    assert run(folder, "--methods", "linear", results="full").returncode == 0
    (record,) = records(folder / "full")
    assert record["status"]["state"] == "ok" and "model_sha256" not in record
    assert record["run"]["notes"][-1] == "the model is not kept: No space left on device"
    assert kept_models(folder / "full") == []


def test_list_shows_sizes_and_clean_frees_them(folder: Path) -> None:
    shown = finish_inside(folder, "list", "runs", "--results", "all", "--format", "csv")
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(shown.stdout))}
    kept = kept_models(folder / "all")
    for run_id in kept:
        size = model_path(folder / "all", run_id).stat().st_size
        assert float(rows[run_id]["model_mib"]) == pytest.approx(size / 2**20, abs=0.006)

    def clean(*names: str) -> "subprocess.CompletedProcess[str]":
        return finish_inside(folder, "clean", "models", *names, "--results", "all")

    tried = clean("--dry-run")
    assert tried.stdout.split() == kept and "4 models, 0.00 GiB would be removed" in tried.stderr
    assert clean("--older-than", "1").stdout == ""
    for words, message in (
        (("no-such",), "run must be one of"),
        (("--unused",), "unused must be used with clean caches"),
    ):
        wrong = clean(*words)
        assert wrong.returncode == 2 and message in wrong.stderr
    assert kept_models(folder / "all") == kept
    assert clean(kept[0]).stdout.split() == kept[:1]
    assert kept_models(folder / "all") == kept[1:]
    shown = finish_inside(folder, "list", "runs", "--results", "all")
    assert shown.returncode == 0 and kept[0] in shown.stdout  # a model that was removed is no damage


def test_the_best_is_of_one_dataset(folder: Path) -> None:
    results = folder / "several"
    with pytest.raises(
        UserError, match=r"results must hold a run whose model is kept, got none under '.*several/runs'"
    ):
        best_run(results)
    for record in records(folder / "best"):
        model_path(results, record["run_id"]).parent.mkdir(parents=True, exist_ok=True)
        record.pop("sha256"), record.pop("predictions_sha256")
        record["run"]["config"]["dataset_digest"] = record["run_id"]
        write_record(results, record)
        model_path(results, record["run_id"]).write_bytes(b"a model")
    with pytest.raises(UserError, match=r"best must be of one dataset, got models of 4; name the run: images-32-full-"):
        best_run(results)


def test_a_run_without_a_model_is_stored_as_it_was(folder: Path) -> None:
    (record, *_) = records(folder / "none")
    record.pop("sha256"), record.pop("predictions_sha256")
    store_with_model(folder / "plain", record, None, None, "all")
    assert kept_models(folder / "plain") == [] and stored_models(folder / "plain") == []
