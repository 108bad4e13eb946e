"""Evidence from stored predictions: how seeds and groups enter, what is kept, what is refused, what tables say."""

import io
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record, store_with_predictions, strip_digests
from rich.console import Console
from sklearn.metrics import roc_auc_score
from tiny_images import make_images

from bench import main
from benchmarks.analysis import evidence as evidence_module
from benchmarks.analysis import kept
from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.evidence import Evidence, load_evidence, read_evidence
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.data.dataset import open_dataset
from benchmarks.data.manifest import Entry, split_digest, write_manifest
from benchmarks.inference.predict import image_probabilities
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import load_records, write_record
from benchmarks.report.baselines import add_baselines
from benchmarks.report.tables import console_table
from benchmarks.tasks import TASKS


def load(results: Path) -> dict[str, Evidence]:
    evidence, problems = load_evidence(results, runs_frame(load_records(results)[0]))
    assert problems == []
    return evidence


def table(results: Path) -> pd.DataFrame:
    frame = runs_frame(load_records(results)[0])
    return add_significance(summary(frame), load_evidence(results, frame)[0]).set_index("method")


def test_intervals_and_errors_are_those_of_the_seeds_on_the_same_images(tmp_path: Path) -> None:
    runs = [make_record("lora", seed=seed) for seed in range(3)]
    frames = [store_with_predictions(tmp_path, run, 1.0) for run in runs]
    (expected,) = SameImages([dict(enumerate(load(tmp_path).values()))]).intervals()
    assert expected is not None and expected.seeds is not None
    row = table(tmp_path).reset_index().iloc[0]
    shown = row[["auc_low", "auc_high", "auc_se_images", "auc_se_seeds"]].to_list()
    assert shown == pytest.approx(list(expected))
    aucs = [roc_auc_score(frame["label"] == "yes", frame["prob_yes"]) for frame in frames]
    assert row["auc_mean"] == pytest.approx(np.mean(aucs))
    assert row["auc_low"] < row["auc_mean"] < row["auc_high"]
    assert (row["auc_unit"], row["auc_num_units"], row["auc_fewest_units"]) == ("image", 60, 30)


def test_patients_are_units(tmp_path: Path) -> None:
    """Each patient has the same image six times over: as many images, a sixth of the information."""
    frame = store_with_predictions(tmp_path, make_record("lora"), 1.0, num_images=40)
    copies = pd.concat([frame.assign(path=frame["path"] + str(i), group=frame["path"]) for i in range(6)])
    tables = (frame, copies, copies.drop(columns="group"))
    once, grouped, apart = (read_evidence(rows.to_csv(index=False).encode()) for rows in tables)
    assert (grouped.unit, len(grouped.influence), apart.unit, len(apart.influence)) == ("group", 40, "image", 240)
    assert (grouped.class_units.sum(), grouped.class_images.sum()) == (40, 240)
    spans = []
    for found in (once, grouped, apart):
        (ends,) = SameImages([{0: found}]).intervals()
        assert ends is not None
        spans.append(ends.high - ends.low)
    assert spans[1] == pytest.approx(spans[0], rel=0.1)
    assert spans[2] < 0.6 * spans[0]
    half = read_evidence(copies.assign(group=[""] * 120 + list(copies["group"][120:])).to_csv(index=False).encode())
    assert len(half.influence) == 120 + 40  # images without a group stand alone


def test_images_are_ranked_by_logits_where_there_are_any() -> None:
    """Both probabilities of the second class round to 1, and its AUC to 0.75."""
    rows = [("a", 0.0, 40.0), ("b", 0.0, 45.0), ("a", 3.0, 0.0), ("b", 0.0, 46.0)]
    header = "split,path,label,prob_a,prob_b,logit_a,logit_b\n"
    lines = []
    for number, (label, *logits) in enumerate(rows):
        odds = np.exp(np.array(logits) - max(logits))
        lines.append(",".join(map(str, ["test", number, label, *(odds / odds.sum()), *logits])))
    whole = header + "\n".join(lines) + "\n"
    assert read_evidence(whole.encode()).auc == 1
    cut = "\n".join(",".join(line.split(",")[:5]) for line in whole.splitlines()) + "\n"
    assert read_evidence(cut.encode()).auc < 1


def test_order_of_rows_does_not_matter_and_odd_names_are_names(tmp_path: Path) -> None:
    frame = store_with_predictions(tmp_path, make_record("lora"), 1.0, classes=("NA", "1", "None"))
    one, two = (read_evidence(rows.to_csv(index=False).encode()) for rows in (frame, frame[::-1]))
    assert one.images == two.images
    np.testing.assert_array_equal(one.influence, two.influence)


def test_comparisons_are_corrected_within_a_resolution(tmp_path: Path) -> None:
    skills = {"full": 1.5, "lora": 2.5, "vpt": -1.5, "adapter": 1.4}
    for resolution in (224, 448):
        for method, skill in skills.items():
            for seed in range(3):
                store_with_predictions(tmp_path, make_record(method, resolution, seed), skill)
    rows, evidence = table(tmp_path), load(tmp_path)
    for side in (224, 448):
        group = rows[rows["resolution"] == side]
        for name in ("full", "best"):
            (reference,) = group.index[group[f"is_{name}"]]
            assert reference == ("full" if name == "full" else group["auc_mean"].idxmax())
            others = group.drop(reference)
            assert group.loc[reference, [f"vs_{name}_p", f"vs_{name}_change"]].isna().all()
            change = others["auc_mean"] - group.loc[reference, "auc_mean"]
            assert others[f"vs_{name}_change"].to_list() == pytest.approx(change.to_list())
            assert (others[f"vs_{name}_seeds"] == 3).all()
        pair = [{s: evidence[f"{method}_{side}_{s}_a"] for s in range(3)} for method in ("vpt", "full")]
        (alone,) = SameImages(pair).compare([(0, 1)], level=0.05 / 3)
        assert alone is not None
        vpt = group.loc["vpt"].to_dict()
        assert vpt["vs_full_p"] == pytest.approx(min(1, 3 * alone.p), rel=0.01)
        assert [vpt["vs_full_low"], vpt["vs_full_high"]] == pytest.approx([alone.low, alone.high], rel=0.01)
        # An interval leaves 0 out exactly where its p is under 0.05: they cannot contradict each other.
        others = group.drop("full")
        outside = (others["vs_full_low"] > 0) | (others["vs_full_high"] < 0)
        assert (outside == (others["vs_full_p"] < 0.05)).all() and outside.any()


def test_one_seed_makes_no_claim_about_methods(tmp_path: Path) -> None:
    for method, skill in (("full", 1.5), ("lora", 0.2)):
        store_with_predictions(tmp_path, make_record(method), skill)
    row = table(tmp_path).loc["lora"]
    assert row["vs_full_seeds"] == 1 and row[["auc_se_seeds", "vs_full_wins"]].isna().all()
    assert main(["tables", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "results.md").read_text()
    assert "These models to full, 95 % CI (p)" in text and "Beats full" not in text.split("How to read")[0]
    assert "One seed: intervals and p are of these trained models on other images, and no claim" in text


def test_what_is_left_after_failures_is_neither_best_nor_compared(tmp_path: Path) -> None:
    """Two of LoRA's three seeds diverged: the third is the highest AUC of all, and no sample of the method."""
    for seed in range(3):
        store_with_predictions(tmp_path, make_record("full", seed=seed), 1.5)
        store_with_predictions(tmp_path, make_record("vpt", seed=seed), 1.0)
        if seed:
            write_record(tmp_path, make_record("lora", seed=seed, state="diverged"))
        else:
            store_with_predictions(tmp_path, make_record("lora", seed=seed), 3.0)
    rows = table(tmp_path)
    assert rows["auc_mean"].idxmax() == "lora" and not rows.loc["lora", "complete"]
    assert not rows.loc["lora", "is_best"] and rows.loc["full", "is_best"]
    assert rows.loc["lora", ["vs_full_p", "vs_best_p"]].isna().all() and rows["vs_best_p"].notna()["vpt"]
    main(["tables", "--results", str(tmp_path)])
    text = (tmp_path / "tables" / "results.md").read_text()
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "**" not in lines["LoRA"].split("|")[6] and "**" in lines["Full fine-tuning"]
    assert "Fewer seeds than others there, so neither ranked nor compared: LoRA at 448 px." in text
    assert "LoRA at 448 px: diverged, 2 seeds" in text


def test_few_of_a_class_are_marked(tmp_path: Path) -> None:
    for seed in range(2):
        store_with_predictions(tmp_path, make_record("lora", seed=seed), 1.0, num_images=18)
    main(["tables", "--results", str(tmp_path)])
    text = (tmp_path / "tables" / "results.md").read_text()
    row = table(tmp_path).loc["lora"]
    assert f"{100 * row['auc_low']:.2f} to {100 * row['auc_high']:.2f}⋆" in text
    assert "⋆ The rarest class has 9 images in the test split" in text


def test_without_predictions_of_every_seed_there_is_no_interval(tmp_path: Path) -> None:
    for seed in (0, 1):
        store_with_predictions(tmp_path, make_record("lora", seed=seed), 1.0)
        store_with_predictions(tmp_path, make_record("full", seed=seed), 1.0)
    store_with_predictions(tmp_path, make_record("vpt"), 1.0, num_images=50)  # other images
    strip_digests(tmp_path)  # so that a run without predictions is no damaged one
    (tmp_path / "runs" / "lora_448_1_a.predictions.csv").unlink()
    rows = table(tmp_path)
    assert rows["auc_low"].isna().to_dict() == {"full": False, "lora": True, "vpt": False}
    assert rows["vs_full_p"].isna().all()


def test_evidence_is_kept_and_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store_with_predictions(tmp_path, make_record("lora"), 1.0)
    (first,) = load(tmp_path).values()
    (file,) = (tmp_path / ".statistics").iterdir()
    with monkeypatch.context() as patch:
        patch.delattr(evidence_module, "read_evidence")
        (again,) = load(tmp_path).values()
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-8] + bytes(8), b""):
        file.write_bytes(damaged)
        (again,) = load(tmp_path).values()
        np.testing.assert_array_equal(again.influence, first.influence)
        assert file.read_bytes() == whole
        assert f"note: .statistics/{file.name} is made anew: its content must" in capsys.readouterr().err
    store_with_predictions(tmp_path, make_record("lora"), 2.0)  # other predictions are never taken for the old
    assert next(iter(load(tmp_path).values())).auc != first.auc


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("split,path,prob_a,prob_b\ntest,1,0.5,0.5\n", "columns must be split, path, label, prob_<class>, got none"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,0.5,0.5\n", "labels of the test split must be the classes"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,nan,0.5\ntest,2,b,1,1\n", "predictions must be finite"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,0.5\n", "rows must have a value for each column"),
        ("split,path,label,prob_a,prob_b\ntest,1,a,,0.5\ntest,2,b,1,1\n", "could not convert string to float"),
        ("", "got none called split"),
    ],
)
def test_predictions_that_are_none_are_refused(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_evidence(content.encode())


def test_predictions_that_belie_their_record_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record("lora")
    store_with_predictions(tmp_path, record, 1.0)
    frame = runs_frame([record])
    evidence, problems = load_evidence(tmp_path, frame.assign(auc=0.123))
    assert evidence == {}
    assert len(problems) == 1 and "predictions must be those of their record" in problems[0]
    assert "the record says 0.123000): run it again" in problems[0]
    (tmp_path / "runs" / "lora_448_0_a.predictions.csv").write_text("split\n")
    strip_digests(tmp_path)
    assert main(["tables", "--results", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "results.md" in out and "predictions must be those of their record" in err


def test_tables_show_intervals_comparisons_and_baselines(tmp_path: Path) -> None:
    classes = ("a", "b", "c", "d")
    for method, skill in (("full", 2.0), ("lora", 0.1)):
        store_with_predictions(tmp_path, make_record(method), skill, classes, num_images=61)
    assert main(["tables", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "results.md").read_text()
    assert "AUC 95 % CI (%) |" in text and "to full, 95 % CI (p)" in text and "Bonferroni" in text
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("|")}
    row = table(tmp_path).loc["lora"]
    assert f"{100 * row['auc_low']:.2f} to {100 * row['auc_high']:.2f}" in lines["LoRA"]
    assert f"{100 * row['vs_full_change']:.2f}, ".replace("-", "−") in lines["LoRA"]
    assert "full" in lines["Full fine-tuning"] and "best" in lines["Full fine-tuning"]
    majority, chance = lines["Majority class (baseline)"], lines["Chance (baseline)"]
    assert "26.23" in majority and "50.00" in majority  # 16 of 61 images
    assert "25.00" in chance and "**" not in majority + chance and "<u>" not in majority + chance
    csv = pd.read_csv(tmp_path / "tables" / "results.csv")
    assert csv["state"].to_list() == ["ok", "ok", "baseline", "baseline"]
    assert csv["auc_low"].notna().to_list() == [True, True, False, False]
    console = Console(file=io.StringIO(), width=80)
    console.print(console_table(runs_frame(load_records(tmp_path)[0])))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The majority class alone: accuracy 26.2 %, AUC 50." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "95 \\% CI" in (tmp_path / "tables" / "results.tex").read_text()


def test_baselines_need_the_counts_of_the_test_split() -> None:
    bare = summary(runs_frame([make_record("lora")]))
    assert len(add_baselines(bare)) == 1


def test_runs_store_the_groups_of_a_prepared_folder(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    plain = open_dataset(str(root), tmp_path, tmp_path / "cache")
    samples = [sample for split in plain.splits.values() for sample in split]
    entries = [
        Entry(s.path, s.path.split("/")[0], plain.classes[cast(int, s.label)], f"patient {s.path[-5]}", s.path, "")
        for s in samples
    ]
    split = {"kind": "ours", "parts": {}, "group_key": "patient", "seed": 0, "digest": split_digest(entries)}
    about = {"complete": True, "notes": [], "split": split, "counts": {}, "settings": {}, "excluded": []}
    write_manifest(root, entries, about)
    prepared = open_dataset(str(root), tmp_path, tmp_path / "cache")
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]] * 4)
    frames = [
        image_probabilities(dataset, "test", probabilities, TASKS["cross_entropy"]) for dataset in (plain, prepared)
    ]
    assert "group" not in frames[0]
    assert frames[1]["group"].to_list() == [f"patient {path[-5]}" for path in frames[1]["path"]]
    found = read_evidence(frames[1].to_csv(index=False).encode())
    assert (found.unit, len(found.influence)) == ("group", 4)


def test_what_is_made_is_written_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is killed would else have made hours of it for nothing."""
    monkeypatch.setattr(kept, "_SECONDS", 0.0)
    for seed in range(12):
        store_with_predictions(tmp_path, make_record("lora", seed=seed), 1.0 + seed)
    store_with_predictions(tmp_path, make_record("full"), 1.0, num_images=50)  # other shapes in the same file
    with monkeypatch.context() as patch:
        patch.setattr(kept.Kept, "__exit__", lambda *_: None)  # which a process that is killed does not come to
        found = load(tmp_path)
    monkeypatch.delattr(evidence_module, "read_evidence")
    again = load(tmp_path)
    assert len(found) == len(again) == 13
    for run_id, one in found.items():
        for first, second in zip(one, again[run_id], strict=True):
            np.testing.assert_array_equal(first, second)
