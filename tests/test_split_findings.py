"""bench.py split of a table of findings: by patient, stratified over findings as published, in folds too."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from own_folders import noise
from prepared_trees import about, rows

import bench
from benchmarks.choices import SPLITS
from benchmarks.data.dataset import open_dataset
from benchmarks.data.findings import targets_of
from benchmarks.data.stratify import stratify
from benchmarks.prepare.kinds import label_of, values_of
from datasets.info import finding_label

NAMES = ("Mass", "Edema", "Tube")
PRESENT = (0.35, 0.2, 0.6)
PATIENTS = 200


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_table(root: Path, *more: str, seed: int = 0) -> pd.DataFrame:
    """`own.csv` and `all/`: one to three images a patient, a tenth of the findings unknown, some uncertain."""
    rng, lines, number = np.random.default_rng(seed), [], 0
    (root / "all").mkdir(parents=True)
    for patient in range(PATIENTS):
        for _ in range(int(rng.integers(1, 4))):
            has = [str(int(rng.random() < share)) for share in PRESENT]
            has = ["" if rng.random() < 0.1 else "-1" if rng.random() < 0.05 else value for value in has]
            noise(number, 8).save(root / f"all/{number}.png")
            lines.append([f"all/{number}.png", f"p{patient}", *has, *more])
            number += 1
    header = ["path", "Patient", *NAMES, *(f"more{place}" for place in range(len(more)))]
    with (root / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return pd.read_csv(root / "own.csv", dtype=str, keep_default_na=False).set_index("path")


def split(*options: str) -> int:
    return bench.main(["split", "own.csv", *options])


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert split(*options) == 2 and not Path("data/own-split").exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_table_becomes_a_dataset_by_links(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = make_table(folder)
    assert split("--groups", "patient") == 0
    root, shown = folder / "data/own-split", capsys.readouterr()
    made = pd.read_csv(root / "labels.csv", dtype=str, keep_default_na=False)
    assert list(made.columns) == ["path", "split", "group", *NAMES] and len(made) == len(said)
    for row in made.to_dict("records"):
        raw = said.loc[f"all/{Path(row['path']).name}"]
        assert [row[name] for name in ("group", *NAMES)] == [raw[name] for name in ("Patient", *NAMES)]
        assert (root / row["path"]).is_symlink()
    assert made.groupby("group")["split"].nunique().max() == 1
    assert {row["path"]: row["split"] for row in rows(root)} == dict(zip(made["path"], made["split"], strict=True))
    for name in NAMES:
        whole = (made[name] == "1").sum()
        for part, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            number = int(((made["split"] == part) & (made[name] == "1")).sum())
            assert abs(number / whole - share) <= 0.04
            assert about(root)["counts"][part][name] == number
    dataset = open_dataset("own-split", folder / "data", folder / "cache")
    assert dataset.classes == NAMES and dataset.split_origin is not None
    assert dataset.groups() == dict(zip(made["path"], made["group"], strict=True))
    assert "3 findings of" in shown.err and f"Mass: {(said['Mass'] == '1').sum()} with" in shown.err
    assert f"{PATIENTS} groups (patient), none in two splits" in shown.out
    assert split("--groups", "patient") == 0 and "already there" in capsys.readouterr().out
    assert bench.main(["check", "own-split", "--format", "json"]) == 0


def test_each_fold_tests_a_patient_once_and_shares_out_the_findings(folder: Path) -> None:
    said = make_table(folder)
    assert split("--groups", "Patient", "--folds", "4", "--copy") == 0
    tested: Counter[str] = Counter()
    for number in range(1, 5):
        root = folder / f"data/own-split-fold{number}"
        made = pd.read_csv(root / "labels.csv")
        assert made.groupby("group")["split"].nunique().max() == 1
        assert not any((root / path).is_symlink() for path in made["path"])
        test = made[made["split"] == "test"]
        tested.update(test["group"].unique())
        for name in NAMES:
            assert (
                abs((test[name] == 1).sum() - (said[name] == "1").sum() / 4) <= 3
            )  # no more than the images of a patient
    assert set(tested.values()) == {1} and len(tested) == PATIENTS


def test_columns_of_findings_are_told_from_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(folder, "63")
    line = refused(capsys, "--groups", "patient")
    assert "got '63' as 'more0'" in line and "--findings COLUMN" in line
    assert split("--groups", "patient", "--findings", "edema", "Tube") == 0
    assert open_dataset("own-split", folder / "data", folder / "cache").classes == ("Edema", "Tube")
    capsys.readouterr()
    assert split("--groups", "patient", "--findings", "Efusion", "--name", "b") == 2
    assert "finding in 'own.csv' must be one of" in capsys.readouterr().err
    assert split("--groups", "patient", "--findings", "Mass", "--labels", "Tube", "--name", "b") == 2
    assert "--findings must be of a table without --labels" in capsys.readouterr().err
    text = Path("own.csv").read_text()
    Path("own.csv").write_text(text.replace("Edema", "Edema?", 1))
    assert split("--groups", "patient", "--findings", "Edema?", "--name", "b") == 2
    assert "got 'Edema?' in 'own.csv'; rename the column" in capsys.readouterr().err
    Path("own.csv").write_text(text.replace("all/7.png", "all/6.png"))
    assert split("--groups", "patient", "--findings", "Edema", "--name", "b") == 2
    assert "table must list each image once" in capsys.readouterr().err


def test_a_column_of_splits_is_not_used_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(folder, "test")
    text = Path("own.csv").read_text()
    Path("own.csv").write_text(text.replace("more0", "split"))
    assert split("--groups", "patient") == 0
    assert "its column split is not used" in capsys.readouterr().err
    assert about(folder / "data/own-split")["images"].keys() == set(SPLITS)


def test_too_little_of_every_finding_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(folder)
    table = pd.read_csv("own.csv", dtype=str, keep_default_na=False)
    table.loc[30:, list(NAMES)] = ""
    table.to_csv("own.csv", index=False)
    line = refused(capsys, "--groups", "patient")
    assert "must have a finding that at least 10 images of val have and 10 do not, got none" in line
    table["Mass"] = "0"
    table.to_csv("own.csv", index=False)
    assert "got none with Mass; add images, or take a column out" in refused(capsys, "--groups", "patient")


def as_published(
    names: list[str], labels: list[set[int]], num_labels: int, shares: dict[str, float], seed: int
) -> dict[str, str]:
    """Algorithm 1 of Sechidis et al., line by line, on examples with sets of labels; ties by the same lots."""

    def lot(text: str) -> bytes:
        return hashlib.sha256(f"{seed}:{text}".encode()).digest()

    total = sum(shares.values())
    wanted = {split: share / total * len(names) for split, share in shares.items()}
    wanted_of = {
        (split, i): share / total * sum(i in own for own in labels)
        for split, share in shares.items()
        for i in range(num_labels)
    }
    remaining, found = dict(zip(names, labels, strict=True)), {}
    while any(remaining.values()):
        numbers = {i: sum(i in own for own in remaining.values()) for i in range(num_labels)}
        fewest = min((number, i) for i, number in numbers.items() if number)[1]
        for name in sorted((name for name, own in remaining.items() if fewest in own), key=lot):
            most = max(wanted_of[split, fewest] for split in shares)
            best = [split for split in shares if wanted_of[split, fewest] == most]
            largest = max(wanted[split] for split in best)
            best = [split for split in best if wanted[split] == largest]
            found[name] = min(best, key=lambda split: lot(f"{name}:{split}"))
            for i in remaining.pop(name):
                wanted_of[found[name], i] -= 1
            wanted[found[name]] -= 1
    for name in sorted(remaining, key=lot):
        largest = max(wanted.values())
        best = [split for split in shares if wanted[split] == largest]
        found[name] = min(best, key=lambda split: lot(f"{name}:{split}"))
        wanted[found[name]] -= 1
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [{"train": 0.7, "val": 0.1, "test": 0.2}, {str(k): 1.0 for k in range(5)}])
def test_images_alone_are_dealt_as_published(seed: int, shares: dict[str, float]) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((150, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(np.int64)
    names = [f"image{place}" for place in range(150)]
    sets = [set(np.flatnonzero(row).tolist()) for row in labels]
    found = stratify(names, np.ones(150, dtype=np.int64), labels, shares, seed)
    assert dict(zip(names, found, strict=True)) == as_published(names, sets, 5, shares, seed)


def test_findings_of_patients_are_shared_out_better_than_by_lot() -> None:
    """The paper's measure, the mean difference of the odds of labels, over patients with one to six images."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 7, 300)
    labels = rng.binomial(sizes[:, None], [0.4, 0.1, 0.03])
    names = [f"p{place}" for place in range(300)]
    shares = {str(fold): 1.0 for fold in range(5)}
    whole = labels.sum(axis=0) / (sizes.sum() - labels.sum(axis=0))

    def distance(dealt: list[str]) -> float:
        chosen = [np.array(dealt) == split for split in shares]
        odds = [labels[own].sum(axis=0) / (sizes[own].sum() - labels[own].sum(axis=0)) for own in chosen]
        return float(np.mean([np.abs(each - whole) for each in odds]))

    found = stratify(names, sizes, labels, shares, 0)
    lots = [distance([str(fold) for fold in rng.permutation(np.arange(300) % 5)]) for _ in range(200)]
    assert distance(found) < min(lots)
    images: Counter[str] = Counter()
    for size, split_of in zip(sizes, found, strict=True):
        images[split_of] += int(size)
    assert all(abs(number - sizes.sum() / 5) <= 0.15 * sizes.sum() / 5 for number in images.values())


def test_a_label_says_what_the_table_says() -> None:
    for values in [(1, 0, -1), (None, None, 0), (0, 0, 0), (1, 1, None)]:
        assert values_of(label_of(values, NAMES), NAMES) == values
    assert finding_label(["Mass"], ["Tube"]) == "Mass|Tube?"
    assert np.isnan(targets_of([values_of("Mass~", NAMES)])[0, 0])
