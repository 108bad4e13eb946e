"""Runs on several backbones side by side, from a fixed set of records."""

from pathlib import Path

import pandas as pd
import pytest
from fixed_records import make_record

import bench
from benchmarks.analysis.backbones import SEVERAL, across_backbones
from benchmarks.analysis.summary import blocks, summary
from benchmarks.records.frame import runs_frame
from benchmarks.records.record import store_run
from benchmarks.records.schema import Record


def run(method: str, backbone: str, auc: float, sha256: str = "ab", seed: int = 0) -> Record:
    return make_record(
        method,
        seed=seed,
        auc=auc,
        tag=f"{backbone}-{sha256}",
        config={"backbone": backbone},
        weights={"backbone": backbone, "backbone_requested": backbone, "sha256": sha256 * 32},
    )


RUNS = [
    *(run("full", "convnext_base", auc, seed=seed) for seed, auc in enumerate((0.95, 0.93))),
    *(run(method, "vit_base_patch16_224", 0.90) for method in ("full", "fpt")),
]


def test_a_row_is_a_method_on_a_backbone_and_all_are_compared() -> None:
    apart = summary(runs_frame(RUNS))
    assert len(list(blocks(apart))) == 2 and set(apart["label"]) == {"Full fine-tuning", "FPT"}
    together = summary(across_backbones(runs_frame(RUNS)))
    assert len(list(blocks(together))) == 1 and set(together["backbone"]) == {SEVERAL}
    rows = together.set_index("label")
    assert rows["auc_mean"].to_dict() == {
        "Full fine-tuning (convnext_base)": pytest.approx(0.94),
        "Full fine-tuning (vit_base_patch16_224)": 0.90,
        "FPT (vit_base_patch16_224)": 0.90,
    }
    assert rows.loc["Full fine-tuning (convnext_base)", "seeds_ok"] == 2


def test_weights_tell_runs_on_one_backbone_apart() -> None:
    runs = [run("lora", "vit_base_patch16_224", 0.8, sha256) for sha256 in ("ab", "cd")]
    labels = set(summary(across_backbones(runs_frame(runs)))["label"])
    start = "LoRA (vit_base_patch16_224 with weights"
    assert labels == {f"{start} abababab)", f"{start} cdcdcdcd)"}


def test_what_differs_otherwise_stays_apart() -> None:
    other = make_record("lora", config={"backbone": "resnet50", "precision": "fp32"}, tag="b")
    table = summary(across_backbones(runs_frame([*RUNS, other])))
    assert sorted(len(block) for block in blocks(table)) == [1, 3]


def test_runs_on_one_backbone_are_left_as_they_are() -> None:
    frame = runs_frame(RUNS[:2])
    pd.testing.assert_frame_equal(across_backbones(frame), frame)


def test_the_commands_write_them_beside_the_usual_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in RUNS:
        store_run(tmp_path, record, probabilities=None)
    assert bench.main(["tables", "--results", str(tmp_path)]) == 0
    usual = (tmp_path / "tables" / "results.md").read_text()
    assert bench.main(["tables", "--across-backbones", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "tables" / "results.md").read_text() == usual
    text = (tmp_path / "tables" / "backbones.md").read_text()
    assert f"{SEVERAL}, each with weights of its own" in text
    assert "Full fine-tuning (convnext_base)" in text and "FPT (vit_base_patch16_224)" in text
    assert SEVERAL not in usual
    capsys.readouterr()
    assert bench.main(["plots", "--across-backbones", "--results", str(tmp_path)]) == 0
    assert "auc-over-memory" in capsys.readouterr().out


@pytest.mark.parametrize("other", [["--layout", "paper"], ["--compare", "."]])
def test_layouts_that_name_no_backbone_refuse_them(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["tables", "--across-backbones", *other]) == 2
    assert "across-backbones must be used without --compare and --layout paper" in capsys.readouterr().err
