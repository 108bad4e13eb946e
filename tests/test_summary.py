"""A summary of all cells at once against its definition, written out cell by cell in plain Python."""

import copy
import json
import math
import statistics
from typing import Any

import pandas as pd
import pytest
from fixed_records import MIB, fallback_records, fixed_records, make_record

from benchmarks.analysis.summary import (
    block_ids,
    performance_memory_efficiency,
    performance_parameter_efficiency,
    summary,
)
from benchmarks.records.frame import runs_frame
from benchmarks.records.schema import STATES, Record

SCORES = {
    "auc": ("test", "auc"),
    "accuracy": ("test", "accuracy"),
    "kappa": ("test", "kappa"),
    "val_auc": ("val", "auc"),
}


def test_a_mean_never_mixes_weighted_and_plain_kappas() -> None:
    datasets: list[dict[str, Any]] = [{"ordered": True}, {"ordered": False}]
    runs = [make_record("lora", 224, seed, dataset=dataset) for seed, dataset in enumerate(datasets)]
    (row,) = summary(runs_frame(runs)).to_dict("records")
    expected = [run["measurements"]["test"]["kappa"] for run in runs]
    assert [row["quadratic_kappa_mean"], row["kappa_mean"]] == pytest.approx(expected, abs=1e-12)


def records() -> list[Record]:
    """Cells with failed, missing and odd runs, of two protocols, two sets of images and two variants."""
    return [
        *fixed_records(),
        *fallback_records(),
        *(make_record("lora", 448, seed, tag="r", method_config={"rank": 2}) for seed in (3, 1)),
        *(make_record("vpt", 448, seed, tag="d", config={"dataset_digest": None}) for seed in (0, 1)),
        make_record("fpt", 448, 7, measured=False),
        make_record("full", 224, 8, state="interrupted", message="stopped"),
    ]


def peak(record: Record, section: str, phase: str, counter: str = "peak_allocated_bytes") -> int | None:
    phases = (record["measurements"].get(section) or {"phases": {}})["phases"]
    value = phases.get(phase, {}).get(counter)
    return None if value is None else int(value)


def highest(values: list[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def same(found: Any, expected: Any) -> bool:
    if expected is None:
        return bool(pd.isna(found))
    return bool(found == (pytest.approx(expected, abs=1e-12) if isinstance(expected, float) else expected))


def expected_cell(runs: list[Record]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: (run["run"]["config"]["seed"], run["run_id"]))
    good = [run for run in runs if run["status"]["state"] == "ok"]
    bad = [run for run in runs if run not in good]
    row: dict[str, Any] = {
        "state": min((run["status"]["state"] for run in runs), key=STATES.index),
        "message": next((run["status"]["message"] for run in bad if run["status"]["message"]), None),
        "phase": next((run["status"]["phase"] for run in bad if run["status"]["phase"]), None),
        "run_ids": " ".join(run["run_id"] for run in good),
        "seeds": " ".join(dict.fromkeys(str(run["run"]["config"]["seed"]) for run in runs)),
        "fallback": any(run["run"]["weights"]["fallback"] for run in runs),
    }
    row |= {f"seeds_{state}": sum(run["status"]["state"] == state for run in runs) for state in STATES}
    for name, (split, metric) in SCORES.items():
        values = [run["measurements"][split][metric] for run in good if metric in run["measurements"][split]]
        row[f"{name}_mean"] = math.fsum(values) / len(values) if values else None
        row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    for phase in ("train", "preload"):
        measured = highest([peak(run, "memory", phase) for run in good])
        predicted = highest([peak(run, "predicted_memory", phase) for run in runs])
        source = "measured" if measured is not None else None if predicted is None else "predicted"
        row |= {f"measured_{phase}_bytes": measured, f"predicted_{phase}_bytes": predicted}
        row |= {f"{phase}_memory_bytes": predicted if measured is None else measured, f"{phase}_memory_source": source}
    row |= {"memory_bytes": None, "memory_source": None, "memory_phase": None, "process_bytes": None}
    needed = {"setup", "train", "eval", *["preload"] * any("cache_bytes" in run["measurements"] for run in runs)}
    for source, section, those in (("measured", "memory", good), ("predicted", "predicted_memory", runs)):
        peaks = {phase: highest([peak(run, section, phase) for run in those]) for phase in (*needed, "preload")}
        known = {phase: value for phase, value in peaks.items() if value is not None}
        whole = max(known.values()) if needed <= known.keys() else None
        row[f"{source}_whole_bytes"] = whole
        if row["memory_source"] is None and whole is not None:
            row |= {"memory_bytes": whole, "memory_source": source, "memory_phase": max(known, key=lambda p: known[p])}
            row["process_bytes"] = highest(
                [peak(r, section, phase, "peak_process_bytes") for phase in known for r in those]
            )
        if row["train_memory_source"] == source:
            row["train_process_bytes"] = highest([peak(run, section, "train", "peak_process_bytes") for run in those])
    seconds = [run["measurements"]["seconds"]["train"] for run in good]
    return row | {"seconds_train": math.fsum(seconds) / len(seconds) if seconds else None}


def test_every_cell_is_what_its_runs_say() -> None:
    stored = records()
    frame = runs_frame(stored)
    runs: dict[tuple[Any, ...], list[Record]] = {}
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for record, block, variant in zip(stored, block_ids(frame), frame["variant"], strict=True):
        config = record["run"]["config"]
        place = (block, config["dataset_digest"], config["resolution"])
        seeds.setdefault(place, set()).add(config["seed"])
        runs.setdefault((*place, config["method"], variant), []).append(record)
    table = summary(frame.sample(frac=1, random_state=0))  # in whatever order the runs come
    assert len(table) == len(runs)
    for _, row in table.iterrows():
        digest = None if pd.isna(row["dataset_digest"]) else row["dataset_digest"]
        place = (row["block"], digest, row["resolution"])
        expected = expected_cell(runs.pop((*place, row["method"], row["variant"])))
        expected["seeds_asked"] = len(seeds[place])
        wrong = {name: (row[name], value) for name, value in expected.items() if not same(row[name], value)}
        assert wrong == {}, (row["method"], row["resolution"])
    assert not runs


@pytest.mark.parametrize(("part", "prefix"), [("whole", ""), ("train", "train_")])
def test_efficiencies_are_relative_to_full_at_the_same_place(part: str, prefix: str) -> None:
    table = summary(runs_frame(records()))
    assert table[f"{prefix}pme"].notna().any()
    for _, row in table.iterrows():
        alike = table[(table["block"] == row["block"]) & (table["resolution"] == row["resolution"])]
        alike = alike[alike["dataset_digest"].astype(str) == str(row["dataset_digest"])]
        pme: dict[str, float] = {}
        for source in ("predicted", "measured"):
            full = alike.loc[alike["method"] == "full", f"{source}_{part}_bytes"].dropna()
            if len(full) and not pd.isna(row[f"{source}_{part}_bytes"]) and not pd.isna(row["auc_mean"]):
                memory = row[f"{source}_{part}_bytes"]
                pme = {source: performance_memory_efficiency(row["auc_mean"], memory, full.max())}
        found = {} if pd.isna(row[f"{prefix}pme"]) else {row[f"{prefix}pme_source"]: row[f"{prefix}pme"]}
        assert found == pme
        if not pd.isna(row["auc_mean"]):
            assert row["ppe"] == performance_parameter_efficiency(row["auc_mean"], row["percent"] / 100)


def without(record: Record, section: str, phase: str) -> Record:
    """The record without the peaks of a phase."""
    changed = copy.deepcopy(record)
    del changed["measurements"][section]["phases"][phase]
    return changed


def one(*runs: Record) -> pd.Series:
    table = summary(runs_frame(runs))
    assert len(table) == 1
    return table.iloc[0]


def test_a_run_needs_the_highest_of_its_phases() -> None:
    fpt = one(make_record("fpt"))
    assert (fpt["memory_bytes"], fpt["memory_phase"]) == (1_730 * MIB, "preload")
    assert (fpt["train_memory_bytes"], fpt["preload_memory_bytes"]) == (1_222 * MIB, 1_730 * MIB)
    assert fpt["process_bytes"] == int((1_730 * 1.1 + 500) * MIB)
    assert one(make_record("lora"))["memory_phase"] == "train"
    evaluated = make_record("lora")
    evaluated["measurements"]["memory"]["phases"]["eval"]["peak_allocated_bytes"] = 20_000 * MIB
    assert (one(evaluated)["memory_bytes"], one(evaluated)["memory_phase"]) == (20_000 * MIB, "eval")


@pytest.mark.parametrize("phase", ["setup", "preload", "train", "eval"])
def test_a_whole_run_is_measured_only_where_all_its_phases_are(phase: str) -> None:
    stored = make_record("fpt", measured=False)
    measured = copy.deepcopy(stored["measurements"]["predicted_memory"])
    for peaks in measured["phases"].values():
        peaks |= {counter: value and value + MIB for counter, value in peaks.items()}
    stored["measurements"]["memory"] = measured
    assert (one(stored)["memory_source"], one(stored)["memory_bytes"]) == ("measured", 1_731 * MIB)
    some = without(stored, "memory", phase)
    assert (one(some)["memory_source"], one(some)["memory_bytes"]) == ("predicted", 1_730 * MIB)
    none = one(without(some, "predicted_memory", phase))
    assert pd.isna(none["memory_source"]) and pd.isna(none["memory_bytes"]) and pd.isna(none["pme"])
    if phase != "train":
        assert (none["train_memory_source"], none["train_memory_bytes"]) == ("measured", 1_223 * MIB)


def test_a_run_that_prepared_its_model_is_not_predicted_whole_without_that_phase() -> None:
    prepared = make_record("lora", measured=False)
    prepared["measurements"]["seconds"]["prepare"] = 2.0
    assert pd.isna(one(prepared)["memory_bytes"]) and one(prepared)["train_memory_bytes"] == 12_650 * MIB
    prepared["measurements"]["memory"] = copy.deepcopy(prepared["measurements"]["predicted_memory"])
    prepared["measurements"]["memory"]["phases"]["prepare"] = {"peak_allocated_bytes": 13_000 * MIB}
    assert (one(prepared)["memory_bytes"], one(prepared)["memory_phase"]) == (13_000 * MIB, "prepare")


def test_what_preloads_may_need_more_than_what_trains_on_little() -> None:
    table = summary(runs_frame([make_record("full", auc=0.9), make_record("fpt_plus", auc=0.9)])).set_index("method")
    plus = table.loc["fpt_plus"]
    assert plus["train_pme"] == pytest.approx(performance_memory_efficiency(0.9, 343, 15_340))
    assert plus["pme"] == pytest.approx(performance_memory_efficiency(0.9, 1_730, 15_340))
    full = table.loc[["full"], ["pme", "train_pme"]].to_numpy()
    assert full[0, 0] == full[0, 1] > 0


def test_a_protocol_has_the_name_that_its_values_give() -> None:
    frame = runs_frame(records())
    names = block_ids(frame)
    assert list(names.index) == list(frame.index) and names.nunique() == 2
    for name, (_, row) in zip(names, frame.iterrows(), strict=True):
        assert block_ids(row.to_frame().T).to_list() == [name]


def test_a_run_that_ended_before_it_knew_its_device_stands_with_those_like_it() -> None:
    early = make_record("lora", seed=1, state="interrupted", auc=None)
    del early["environment"]["device"]
    frame = runs_frame([make_record("lora"), early])
    assert block_ids(frame).nunique() == 1
    assert summary(frame)[["seeds_ok", "seeds_interrupted"]].to_numpy().tolist() == [[1, 1]]
    other = make_record("lora", seed=2, environment={"device": "NVIDIA H100"})
    assert block_ids(runs_frame([make_record("lora"), other, early])).nunique() == 3  # which one is not known


def test_titles_of_variants_are_those_of_their_block() -> None:
    table = summary(runs_frame(records()))
    lora = table[(table["method"] == "lora") & table["variant"].map(lambda variant: "rank" in json.loads(variant))]
    assert lora["label"].to_list() == ["LoRA (rank 2)"]
