"""tables --by COLUMN: scores of subgroups, the worst, the gap, and who is too few."""

import csv
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixed_records import make_record
from inside import finish_inside
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.analysis.subgroups import ALL_SCORES, read_groups
from benchmarks.data.manifest import Entry, read_entries, write_manifest
from benchmarks.errors import UserError
from benchmarks.records.record import store_run
from benchmarks.storage.csv_cells import csv_text

SITES = ("north", "south", "tiny")


def made(seed: int, skills: Mapping[str, float], num: int = 120, groups: bool = True) -> tuple[pd.DataFrame, list[str]]:
    """Predictions of a model that knows more of some sites than of others, two images a patient; and their sites."""
    rng = np.random.default_rng(seed)
    sites = [SITES[i // 2 % 2] for i in range(num)] + ["tiny"] * 8
    labels = (np.arange(len(sites)) // 4 % 2).astype(int)
    odds = np.array([skills[site] for site in sites]) * (2 * labels - 1) + rng.normal(size=len(sites))
    frame = pd.DataFrame({"split": "test", "path": [f"test/{i:03}.png" for i in range(len(sites))]})
    frame["label"] = np.array(["no", "yes"])[labels]
    frame["prob_no"], frame["prob_yes"] = 1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))
    frame["logit_no"], frame["logit_yes"] = 0.0, odds
    if groups:
        frame["group"] = [f"p{i // 2}" for i in range(len(sites))]
    return frame, sites


def store(root: Path, skills: Mapping[str, float], seeds: int = 2) -> pd.DataFrame:
    """Runs and a manifest; returns the predictions of the last seed."""
    for seed in range(seeds):
        frame, sites = made(seed, skills)
        record = make_record("lora", seed=seed)
        record["measurements"]["test"]["auc"] = roc_auc_score(frame["label"] == "yes", frame["logit_yes"])
        record["run"]["dataset"]["counts"] = {"test": {"no": 64, "yes": 64}}
        store_run(root / "results", record, pd.concat([frame.head(20).assign(split="val"), frame]))
    write(root, list(zip(frame["path"], sites, strict=True)))
    return frame.assign(site=sites)


def write(root: Path, rows: list[tuple[str, str]], column: str = "site") -> None:
    (root / "data/demo").mkdir(parents=True, exist_ok=True)
    with (root / "data/demo/manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", column), *rows])


def rows_of(root: Path, *words: str) -> Any:
    said = finish_inside(root, "tables", "--by", "site", *words)
    assert said.returncode == 0, said.stderr
    assert "results/tables/subgroups-site.md" in said.stdout
    return pd.read_csv(root / "results/tables/subgroups-site.csv").set_index(["score", "subgroup"])


def test_scores_of_subgroups_are_those_of_scikit_learn_and_the_small_is_named(tmp_path: Path) -> None:
    frame = store(tmp_path, {"north": 2.0, "south": 0.3, "tiny": 1.0}, seeds=1)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "data").rglob("*"))
    rows = rows_of(tmp_path, "--metrics", "auprc", "brier")
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "data").rglob("*")) == before
    for site, part in frame.groupby("site"):
        yes = part["label"] == "yes"
        found = rows.loc[[("auc", site), ("auprc", site), ("brier", site)]]
        assert set(found["num_images"]) == {len(part)}
        if site == "tiny":
            assert found["group_mean"].isna().all() and not found["scored"].any()
            continue
        expected = [roc_auc_score(yes, part["logit_yes"]), average_precision_score(yes, part["logit_yes"])]
        expected.append(2 * np.mean((yes - part["prob_yes"]) ** 2))
        assert found["group_mean"].tolist() == pytest.approx(expected)
        assert (found["group_low"] < found["group_mean"]).all() and (found["group_mean"] < found["group_high"]).all()
    text = (tmp_path / "results/tables/subgroups-site.md").read_text()
    assert "Too small to be scored, under 10 of a class: tiny (8 images, 2 patients" in text
    assert rows.loc[("auc", "south"), "is_worst"] and not rows.loc[("auc", "north"), "is_worst"]
    assert rows.loc[("brier", "south"), "is_worst"]  # the less, the better


@pytest.mark.parametrize(("south", "told"), [(0.1, True), (2.0, False)])
def test_a_planted_gap_is_found_and_none_is_not(tmp_path: Path, south: float, told: bool) -> None:
    store(tmp_path, {"north": 2.0, "south": south, "tiny": 1.0})
    gap = rows_of(tmp_path).loc[("auc", "gap")]
    assert (gap["group_low"] > 0) == told
    assert gap["group_mean"] >= 0 and gap["group_low"] < gap["group_mean"] < gap["group_high"]


def test_the_interval_of_a_subgroup_is_that_of_a_naive_bootstrap_of_patients() -> None:
    frame, sites = made(3, {"north": 0.6, "south": 0.5, "tiny": 1.0}, num=400)
    data = csv_text(pd.concat([frame.head(20).assign(split="val"), frame])).encode()
    found = read_groups(data, dict(zip(frame["path"], sites, strict=True))).groups["north"]
    part = frame[np.array(sites) == "north"]
    by_patient = dict(list(part.groupby("group")))
    strata = [[name for name, rows in by_patient.items() if rows["label"].iloc[0] == label] for label in ("no", "yes")]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        names = [name for stratum in strata for name in rng.choice(stratum, len(stratum))]
        labels = np.concatenate([by_patient[name]["label"].to_numpy() == "yes" for name in names])
        odds = np.concatenate([by_patient[name]["logit_yes"].to_numpy() for name in names])
        drawn.append(float((odds[labels][:, None] > odds[~labels]).mean()))
    place = list(ALL_SCORES).index("auc")
    assert found.resampled[:, place].std() == pytest.approx(np.std(drawn), rel=0.15)
    assert found.values[place] == pytest.approx(np.mean(drawn), abs=0.01)
    assert found.fewest == len(strata[0])


def test_simultaneous_intervals_and_the_gap_hold_as_often_as_they_say() -> None:
    """Two equal subgroups: the gap is 0. Bonferroni keeps both intervals together at 95 %."""
    from benchmarks.analysis.subgroups import _ends, _gap, _interval

    inside = together = 0
    for seed in range(60):
        frame, sites = made(1000 + seed, {"north": 0.7, "south": 0.7, "tiny": 0.7}, num=240, groups=False)
        data = csv_text(frame).encode()
        groups = read_groups(data, dict(zip(frame["path"], sites, strict=True))).groups
        low, high = _gap("auc", [groups["north"]], [groups["south"]], 2)[1:]
        inside += low <= 0 <= high
        truth = 0.8389  # of N(0.7, 1) against N(-0.7, 1)
        ends = [_ends(found) for site in ("north", "south") if (found := _interval("auc", [groups[site]], 0.025))]
        together += all(low <= truth <= high for _, low, high in ends)
    assert inside >= 54 and together >= 54


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ([("test/000.png", "north")], "site", "manifest must list every test image of lora_448_0_a, got none of 127"),
        ([("test/000.png", "north")], "sex", "must have a column 'site', got path, sex"),
        (None, "site", "subgroups must be in a manifest, got 'data/demo/manifest.csv'"),
    ],
)
def test_what_cannot_be_joined_is_one_line(
    tmp_path: Path, rows: list[tuple[str, str]] | None, column: str, message: str
) -> None:
    store(tmp_path, dict.fromkeys(SITES, 1.0), seeds=1)
    (tmp_path / "data/demo/manifest.csv").unlink()
    if rows is not None:
        write(tmp_path, rows, column)
    said = finish_inside(tmp_path, "tables", "--by", "site")
    assert said.returncode == 1 and message in said.stderr and len(said.stderr.splitlines()) == 1
    assert not (tmp_path / "results/tables/subgroups-site.md").exists()


def test_a_manifest_may_have_columns_of_the_users(tmp_path: Path) -> None:
    entries = [Entry(f"{split}/a/{i}.png", split, "a", "g", "s", "p") for split in ("train", "test") for i in range(2)]
    write_manifest(tmp_path, entries, {})
    path = tmp_path / "manifest.csv"
    before = read_entries(tmp_path)
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},site", *(f"{line},x" for line in rest)]) + "\n")
    assert read_entries(tmp_path) == before
    path.write_text("\n".join([f"{head},site", *rest]) + "\n")
    with pytest.raises(UserError, match="manifest must have the columns"):
        read_entries(tmp_path)


@pytest.mark.process
def test_tables_of_subgroups_need_no_torch(tmp_path: Path) -> None:
    store(tmp_path, dict.fromkeys(SITES, 1.0), seeds=1)
    code = "import bench; status = bench.main(['tables', '--by', 'site']); sys.exit(status or 'torch' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
