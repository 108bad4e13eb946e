"""Records: written whole or not at all, checked when read, flattened without loss."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixed_records import fixed_records, make_record
from tiny_images import make_images

from benchmarks.data.dataset import open_dataset
from benchmarks.inference.predict import image_probabilities
from benchmarks.records.frame import load_frame, runs_frame
from benchmarks.records.record import load_records, predictions_path, read_record, store_run, write_record
from benchmarks.records.schema import COLUMNS
from benchmarks.storage.files import check_writable, write_atomic
from benchmarks.tasks import TASKS


def test_record_comes_back_as_written(tmp_path: Path) -> None:
    record = make_record("lora")
    path = write_record(tmp_path, record)
    assert path == tmp_path / "runs" / "lora_448_0_a.json"
    assert read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_numbers_that_json_lacks_become_null_or_plain(tmp_path: Path) -> None:
    record = make_record("lora")
    record["measurements"]["test"]["kappa"] = math.nan
    record["measurements"]["history"] = [{"epoch": np.int64(1), "loss": np.float32("inf")}]
    stored = read_record(write_record(tmp_path, record))
    assert stored["measurements"]["test"]["kappa"] is None
    assert stored["measurements"]["history"] == [{"epoch": 1, "loss": None}]


def test_predictions_lie_beside_the_record(tmp_path: Path) -> None:
    predictions = pd.DataFrame({"split": ["test"], "path": ["test/a,b/1.png"], "label": [1], "prob_a,b": [0.25]})
    store_run(tmp_path, make_record("lora"), predictions)
    path = predictions_path(tmp_path, "lora_448_0_a")
    assert path.name == "lora_448_0_a.predictions.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), predictions)


def test_killed_writer_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(tmp_path, make_record("lora"))
    before = path.read_bytes()

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, make_record("lora", auc=0.1))
    assert path.read_bytes() == before
    assert [record["run_id"] for record in load_records(tmp_path)[0]] == ["lora_448_0_a"]
    assert load_records(tmp_path)[1] == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b'{"schema": 1, "run_id": "bad", "sta', "EOF while parsing a string"),
        (b"\xff\xfe\x00", "expected value at line 1 column 1"),
        (b"[]", "record must be an object, got []"),
        (b'{"schema": 2}', "schema must be 1, got 2"),
        (b'{"schema": 1}', "run_id must be given, got nothing"),
    ],
)
def test_damaged_file_is_named_and_the_others_stay(tmp_path: Path, content: bytes, reason: str) -> None:
    write_record(tmp_path, make_record("fpt"))
    bad = tmp_path / "runs" / "bad.json"
    bad.write_bytes(content)
    records, problems = load_records(tmp_path)
    assert [record["run_id"] for record in records] == ["fpt_448_0_a"]
    assert len(problems) == 1
    assert str(bad) in problems[0]
    assert reason in problems[0]
    assert "\n" not in problems[0]
    with pytest.raises(ValueError, match="record must be readable, got "):
        read_record(bad)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("run.config.batch_size", None, r"run\.config\.batch_size must be a valid integer, got None"),
        ("run.config.resolution", 0, r"run\.config\.resolution must be greater than or equal to 1, got 0"),
        ("run.config.seed", 2**70, r"run\.config\.seed must be less than or equal to 9223372036854775807, got 1"),
        ("run.config.lr_grid", 5, r"run\.config\.lr_grid must be a valid list, got 5"),
        ("run.config.lr_grid", ["x"], r"run\.config\.lr_grid\[0\] must be a valid number, got 'x'"),
        ("run.dataset.counts", {"test": {"a": "b"}}, r"run\.dataset\.counts\.test\.a must be a valid integer, got 'b'"),
        ("run.dataset.split", {"kind": "ours"}, r"run\.dataset\.split\.group_key must be given, got nothing"),
        ("run.tuning", {"num_trials": 2, "at_edge": True}, r"run\.tuning\.chosen must be given, got nothing"),
        ("run.method.config", [], r"run\.method\.config must be an object, got \[\]"),
        ("run.method.title", "\ud800", "unexpected end of hex escape"),
        (
            "measurements.parameters.percent",
            -200,
            r"measurements\.parameters\.percent must be greater than or equal to 0, got -200",
        ),
        ("measurements.test.auc", 1.5, r"measurements\.test\.auc must be less than or equal to 1.*, got 1\.5"),
        ("measurements.test.auc", math.nan, "Out of range float values are not JSON compliant"),
        ("measurements.test.loss", 10**30, r"measurements\.test\.loss must be a number of at most 64 bits, got 1"),
        ("measurements.preload", {"seconds": 1}, r"measurements\.preload\.cache must be given, got nothing"),
        ("measurements.history", {}, r"measurements\.history must be a valid list, got \{\}"),
        ("measurements.history", [{"val_auc": 0.5}], r"measurements\.history\[0\]\.epoch must be given, got nothing"),
    ],
)
def test_what_tables_could_not_show_is_named(tmp_path: Path, path: str, value: object, reason: str) -> None:
    record = make_record("fpt")
    stored = write_record(tmp_path, record)
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    stored.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"record must be readable, got '.*' \(.*{reason}"):
        read_record(stored)


def test_a_record_nested_without_end_is_named(tmp_path: Path) -> None:
    path = write_record(tmp_path, make_record("fpt"))
    path.write_text("[" * 5000 + "]" * 5000)
    assert load_records(tmp_path)[0] == []
    assert "recursion limit exceeded" in load_records(tmp_path)[1][0]


def test_copied_record_is_not_counted_twice(tmp_path: Path) -> None:
    path = write_record(tmp_path, make_record("fpt"))
    path.with_name("copy.json").write_bytes(path.read_bytes())
    records, problems = load_records(tmp_path)
    assert len(records) == 1
    assert "run_id must be the name of its file, got 'fpt_448_0_a'" in problems[0]


def test_wrong_types_are_refused_when_writing(tmp_path: Path) -> None:
    record = make_record("fpt")
    record["measurements"]["test"]["auc"] = "0.9"
    with pytest.raises(ValueError, match=r"measurements\.test\.auc must be a valid number, got '0\.9'"):
        write_record(tmp_path, record)
    with pytest.raises(
        ValueError, match=r"status\.state must be 'ok', 'oom', 'diverged', 'failed' or 'interrupted', got 'o'"
    ):
        write_record(tmp_path, make_record("fpt", state="o"))
    with pytest.raises(ValueError, match="run_id must be letters"):
        write_record(tmp_path, make_record("fpt") | {"run_id": "../up"})


def test_missing_folder_has_no_records_and_missing_record_says_so(tmp_path: Path) -> None:
    assert load_records(tmp_path / "none") == ([], [])
    with pytest.raises(FileNotFoundError, match="record must exist, got "):
        read_record(tmp_path / "none.json")


def test_results_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    check_writable(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=r"results must be a folder that can be written, got '.*file/runs' \(.+\): "):
        check_writable(tmp_path / "file" / "runs")


@pytest.mark.parametrize("sync", [True, False])
def test_write_atomic_replaces(tmp_path: Path, sync: bool) -> None:
    write_atomic(tmp_path / "a", b"1", sync=sync)
    assert write_atomic(tmp_path / "a", b"2", sync=sync).read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_frame_has_every_column_and_missing_is_missing() -> None:
    frame = runs_frame(fixed_records())
    made = [
        "variant",
        "augmented",
        "normalized_by",
        "stopping_asked",
        "train_labels",
        "majority_share",
        "num_classes",
        "train_losses",
        "val_aucs",
        "num_train",
        "class_entropy",
    ]
    assert list(frame) == [*COLUMNS, *made, "quadratic_kappa"]
    assert len(frame) == 63
    oom = frame[frame["state"] == "oom"].iloc[0]
    assert pd.isna(oom["auc"])
    assert pd.isna(oom["measured_train_peak_allocated_bytes"])
    assert oom["predicted_train_peak_allocated_bytes"] > 2**30
    assert list(runs_frame([])) == list(frame)


def test_kappa_is_called_what_it_is() -> None:
    """Runs that do not say whether classes are grades are of a time when all had quadratic weights."""
    graded = {"ordered": True, "counts": {"test": {"0": 3, "1": 4, "2": 5}}}
    datasets = [
        ({}, "kappa"),  # not ordered
        (graded, "quadratic_kappa"),
        (graded | {"ordered": None}, "quadratic_kappa"),
        (graded | {"counts": {"test": {"no": 3, "yes": 4}}}, "kappa"),  # of two classes both are the same
    ]
    frame = runs_frame([make_record("lora", dataset=dataset, auc=0.8) for dataset, _ in datasets])
    for (_, name), (_, row) in zip(datasets, frame.iterrows(), strict=True):
        other = {"kappa": "quadratic_kappa", "quadratic_kappa": "kappa"}[name]
        assert row[name] == pytest.approx(0.6) and pd.isna(row[other])


def test_records_become_a_frame_one_by_one_or_all_at_once(tmp_path: Path) -> None:
    for record in fixed_records(resolutions=(224, 896), seeds=1):
        write_record(tmp_path, record)
    (tmp_path / "runs" / "bad.json").write_text("{")
    frame, problems = load_frame(tmp_path)
    records, same_problems = load_records(tmp_path)
    pd.testing.assert_frame_equal(frame, runs_frame(records))
    assert len(frame) == 14 and len(problems) == 1 and problems == same_problems
    empty, problems = load_frame(tmp_path / "none")
    assert empty.empty and list(empty) == list(frame) and problems == []


def test_frame_documents_each_column() -> None:
    text = runs_frame.__doc__ or ""
    short = [
        name for name in COLUMNS if not name.startswith(("measured_", "predicted_", "seconds_", "images_per_second_"))
    ]
    assert [name for name in short if name not in text] == []


def test_variant_holds_what_is_neither_place_nor_protocol() -> None:
    record = make_record("lora", method_config={"rank": 8})
    variant = json.loads(runs_frame([record])["variant"].iloc[0])
    assert variant["rank"] == 8
    assert variant["lr"] == 1e-3
    assert not {"seed", "resolution", "dataset", "precision", "epochs"} & set(variant)


def test_predictions_hold_probabilities_and_the_very_logits(tmp_path: Path) -> None:
    dataset = open_dataset(str(make_images(tmp_path / "images")), tmp_path, tmp_path / "cache")
    logits = np.random.default_rng(0).normal(0, 20, (8, 2)).astype(np.float32).astype(np.float64)
    store_run(tmp_path, make_record("lora"), image_probabilities(dataset, "test", logits, TASKS["cross_entropy"]))
    path = predictions_path(tmp_path, "lora_448_0_a")
    with path.open(newline="") as file:
        stored = list(csv.DictReader(file))
    for row, expected in zip(stored, logits, strict=True):
        assert [float(row["logit_bright"]), float(row["logit_dark"])] == expected.tolist()
        assert float(row["prob_bright"]) == pytest.approx(1 / (1 + math.exp(expected[1] - expected[0])))
    assert (pd.read_csv(path)[["logit_bright", "logit_dark"]].to_numpy() == logits).all()
