"""A results folder for the tests of the page: two datasets, hostile names, predictions, histories, measured memory."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from fixed_records import MIB, fallback_records, fixed_records
from sklearn.metrics import roc_auc_score

from benchmarks.memory.point import MemoryPoint
from benchmarks.records.record import store_run
from benchmarks.records.schema import Record

HOSTILE_CLASS = "<script>alert(1)</script>"
HOSTILE_DATASET = "<img src=x onerror=alert(2)><b>eyes</b>{{data}}"
CLASSES = ("no DR", "mild", HOSTILE_CLASS)
NUM_IMAGES = 60


def make_folder(results: Path) -> list[Record]:
    """Fill a results folder; the records are returned as stored."""
    records = [*map(hostile, fixed_records((224, 448), seeds=2)), *fallback_records()]
    for number, record in enumerate(records):
        made = predictions(number) if record["status"]["state"] == "ok" else None
        if made is not None:
            add_details(record, number, made)
        store_run(results, record, made)
    for method, preload in (("full", None), ("fpt", 900), ("linear", 880)):
        for resolution in (224, 512, 1024):
            write_measured(results, method, resolution, {"train": resolution * 20, "preload": preload})
    return records


def write_measured(results: Path, method: str, resolution: int, mebibytes: dict[str, int | None]) -> Path:
    """Store what `bench.py memory --measure` would have, with the peaks of some phases."""
    point = MemoryPoint(method, resolution, precision="bf16", attention="sdpa")
    mebibytes = {"setup": 8, "eval": 9, **mebibytes}
    phases = {phase: {"peak_allocated_bytes": size * MIB} for phase, size in mebibytes.items() if size}
    record = {
        **{"schema": 1, "point": point.as_dict(), "status": {"state": "ok", "message": None, "phase": None}},
        **{"memory": {"source": "measured", "phases": phases}, "started": "2026-01-02T00:00:00+00:00"},
        **{
            "code": {"commit": "beef" * 10, "dirty": True},
            "environment": {"device": "NVIDIA H100", "host_id": "12ab34cd"},
        },
    }
    path = results / "measured" / "nvidia-h100" / f"{point.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def hostile(record: Record) -> Record:
    """The record as of a folder whose name and classes try to act as markup."""
    record["run"]["dataset"] |= {"name": "eyes", "title": HOSTILE_DATASET, "synthetic": False}
    record["run"]["config"]["dataset"] = "eyes"
    record["environment"] |= {"host_id": "56ef78ab", "host": "<i>gpu7</i>"}
    return record


def add_details(record: Record, seed: int, made: pd.DataFrame) -> None:
    """The AUC of the predictions, a history of epochs and per-class results."""
    test = made[made["split"] == "test"]
    probabilities = test[[f"prob_{name}" for name in CLASSES]].to_numpy()
    auc = float(roc_auc_score(test["label"].map(CLASSES.index), probabilities, multi_class="ovr"))
    record["measurements"]["test"]["auc"] = auc
    record["measurements"]["history"] = [
        {"epoch": epoch, "loss": 2 / epoch, "lr": 1e-3 / epoch, "val_auc": auc - 0.2 / epoch} for epoch in range(1, 9)
    ]
    scores = np.random.default_rng(seed).uniform(0.7, 0.9, len(CLASSES))
    record["measurements"]["test"]["auc_per_class"] = dict(zip(CLASSES, map(float, scores), strict=True))


def predictions(seed: int) -> pd.DataFrame:
    """Per-image probabilities of a run, on both splits."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(CLASSES), NUM_IMAGES)
    odds = rng.random((NUM_IMAGES, len(CLASSES)))
    odds[np.arange(NUM_IMAGES), labels] += 0.4
    frame = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=[f"prob_{name}" for name in CLASSES])
    frame.insert(0, "split", ["val"] * 20 + ["test"] * (NUM_IMAGES - 20))
    frame.insert(1, "path", [f"patient-{i}.png" for i in range(NUM_IMAGES)])
    frame.insert(2, "label", [CLASSES[i] for i in labels])
    return frame
