"""bench.py prepare of the datasets with findings, on tiny raw trees: tables, splits by patient, and what is refused."""

import json
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from finding_trees import PATIENTS, chexpert, nih_cxr14
from inside import finish_inside
from prepared_trees import about, prepare, rows
from small_backbones import SMALL

from benchmarks.data.dataset import open_dataset
from datasets import DATASETS

BUILDERS = {"nih_cxr14": nih_cxr14, "chexpert": chexpert}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    for name, build in BUILDERS.items():
        build(folder / "raw" / name)
        assert prepare(name, folder / "raw" / name, folder / "data", "--allow-incomplete") == 0
    return folder


@pytest.mark.parametrize("name", BUILDERS)
def test_each_comes_out_with_its_table_and_official_test_split_by_patient(prepared: Path, name: str) -> None:
    root, listed = prepared / "data" / name, rows(prepared / "data" / name)
    assert len(listed) == 2 * sum(PATIENTS.values())
    dataset = open_dataset(name, prepared / "data", prepared / "cache")
    assert dataset.classes == DATASETS[name].classes and dataset.normalization_source == "computed"
    assert dataset.split_origin is not None and dataset.split_origin.parts["test"] == "official"
    assert dataset.split_origin.parts["val"] == "ours" and len(dataset.splits["test"]) == 2 * PATIENTS["test"]
    groups = dataset.groups()
    assert groups == {row["path"]: row["group"] for row in listed}
    splits = defaultdict(set)
    for row in listed:
        splits[row["group"]].add(row["split"])
    assert len(splits) == sum(PATIENTS.values()) and all(len(each) == 1 for each in splits.values())
    table = pd.read_csv(root / "labels.csv")
    counted = about(root)["counts"]
    assert (
        {
            split: {each: int((part[each] == 1).sum()) for each in dataset.classes}
            for split, part in table.groupby("split")
        }
        == counted
        == dataset.counts()
    )


def test_the_table_of_nih_says_what_the_raw_one_does(prepared: Path) -> None:
    raw = pd.read_csv(prepared / "raw/nih_cxr14/Data_Entry_2017.csv", index_col=False)
    said = dict(zip(raw["Image Index"], raw["Finding Labels"], strict=True))
    table = pd.read_csv(prepared / "data/nih_cxr14/labels.csv")
    for _, row in table.iterrows():
        names = [name for name in DATASETS["nih_cxr14"].classes if row[name] == 1]
        assert set(names) == set(said[Path(row["path"]).name].split("|")) - {"No Finding"}
        assert all(row[name] in (0, 1) for name in DATASETS["nih_cxr14"].classes)


def test_chexpert_keeps_what_is_uncertain_and_takes_blanks_for_absent(prepared: Path) -> None:
    frames = [pd.read_csv(prepared / f"raw/chexpert/CheXpert-v1.0-small/{name}.csv") for name in ("train", "valid")]
    raw = pd.concat(frames)
    raw.index = ["_".join(path.split("/")[-3:]).partition(".")[0] for path in raw["Path"]]
    table = pd.read_csv(prepared / "data/chexpert/labels.csv")
    table.index = [Path(path).stem for path in table["path"]]
    names = list(DATASETS["chexpert"].classes)
    expected = raw.loc[table.index, names].fillna(0).astype(int)
    pd.testing.assert_frame_equal(table[names].astype(int), expected)
    assert (table["Edema"] == -1).sum() == 28 and not (table[table["split"] == "test"][names] == -1).any().any()


def test_a_second_time_there_is_nothing_to_do(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("nih_cxr14", prepared / "raw/nih_cxr14", prepared / "data", "--allow-incomplete") == 0
    assert "already prepared" in capsys.readouterr().out


def test_uncertain_findings_count_as_asked_for(prepared: Path) -> None:
    """Three runs that differ in it alone are three variants, tested alike."""
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--weights", "none", "--epochs", "1"]
    words = ["--methods", "linear", "--datasets", "chexpert", "--res", "32", "--device", "cpu", *backbone]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        for uncertain in ("ignore", "zero", "one"):
            ended = finish_inside(prepared, *words, "--uncertain", uncertain)
            assert ended.returncode == 0, ended.stderr
    assert "Lung Lesion" in ended.stderr and "are not scored in test" in ended.stderr
    stored = [json.loads(path.read_text()) for path in (prepared / "results/runs").glob("[!.]*.json")]
    losses = {each["run"]["config"]["uncertain"]: each["measurements"]["history"][0]["loss"] for each in stored}
    assert len(losses) == len(set(losses.values())) == 3
    assert finish_inside(prepared, "tables").returncode == 0
    table = pd.read_csv(prepared / "results/tables/results.csv")
    assert sorted(table["label"]) == [
        "Linear probe", "Linear probe (uncertain as 0)", "Linear probe (uncertain as 1)"
    ]  # fmt: skip
    assert table["auc_num_units"].nunique() == 1


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "said"),
    [
        ("nih_cxr14", "Data_Entry_2017.csv", "Effusion", "Water", "findings must be of the fourteen, got 'Water'"),
        (
            "nih_cxr14",
            "test_list.txt",
            "00000131_000",
            "00000001_000",
            "share no image, got '00000001_000' in both",
        ),
        ("nih_cxr14", "test_list.txt", "00000131_000", "00099999_000", "got 1 that are not: '00099999_000'"),
        ("chexpert", "CheXpert-v1.0-small/train.csv", ",1.0,", ",2.0,", "must be 1, 0, -1 or nothing, got '2.0'"),
        ("chexpert", "CheXpert-v1.0-small/valid.csv", "Pleural Effusion", "Water", "must hold valid.csv"),
        (
            "chexpert",
            "CheXpert-v1.0-small/train.csv",
            "patient00001",
            "patient99999",
            "missing: train/patient99999",
        ),
    ],
)
def test_what_is_wrong_with_a_download_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, file: str, old: str, new: str, said: str
) -> None:
    BUILDERS[name](tmp_path / "raw")
    path = tmp_path / "raw" / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert prepare(name, tmp_path / "raw", tmp_path / "data") == 2
    assert said in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "data" / name).exists()
