"""Images with several findings each: their table, the masked loss, scores, and runs from the table to the page."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from bench_process import TINY
from finding_images import COUNTS, NAMES, make_findings
from inside import finish_inside
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from small_backbones import SMALL
from test_inference import naive_placements

from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.ensembles import score
from benchmarks.analysis.evidence import finding_evidence, read_evidence
from benchmarks.analysis.extra_scores import SCORES
from benchmarks.analysis.folds import fold_evidence
from benchmarks.analysis.run_scores import read_scores
from benchmarks.data.dataset import open_dataset
from benchmarks.errors import UserError
from benchmarks.inference.predict import predict
from benchmarks.inference.trained import load_run
from benchmarks.records.frame import load_frame
from benchmarks.tasks import TASKS
from benchmarks.training.metrics import finding_metrics

BCE = TASKS["bce"]
RUN = [*TINY, "--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "2"]


def test_the_loss_is_the_mean_over_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, requires_grad=True)
    targets = torch.randint(0, 2, (6, 4), generator=generator).float()
    targets[0, 1] = targets[3] = torch.nan
    terms = [
        F.binary_cross_entropy_with_logits(logits[i, c], targets[i, c])
        for i in range(6)
        for c in range(4)
        if not targets[i, c].isnan()
    ]
    loss = BCE.loss(logits, targets)
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[3] == 0).all() and gradient[0, 1] == 0 and (gradient[0, [0, 2, 3]] != 0).all()
    nothing = BCE.loss(logits, torch.full((6, 4), torch.nan))
    assert nothing.item() == 0 and torch.isfinite(torch.autograd.grad(nothing, logits)[0]).all()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_findings(tmp_path_factory.mktemp("findings") / "images")


def table(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "labels.csv")


def test_a_table_is_a_dataset(images: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(images), tmp_path, tmp_path / "cache")
    said = table(images)
    assert dataset.classes == NAMES and {name: len(part) for name, part in dataset.splits.items()} == COUNTS
    for split in COUNTS:
        rows = said[said["split"] == split].sort_values("path")
        assert [sample.path for sample in dataset.splits[split]] == rows["path"].tolist()
        for uncertain, meant in (("ignore", np.nan), ("zero", 0.0), ("one", 1.0)):
            expected = rows[list(NAMES)].replace(-1, meant).to_numpy(dtype=float)
            np.testing.assert_array_equal(dataset.targets(split, uncertain), expected)  # type: ignore[arg-type]
        assert dataset.counts()[split] == {name: int((rows[name] == 1).sum()) for name in NAMES}
    assert dataset.groups() == dict(zip(said["path"], said["group"], strict=True))
    assert dataset.findings is not None and dataset.findings.about()["unscored"] == {"val": ["rare"], "test": ["rare"]}


def test_another_value_is_another_dataset(images: Path, tmp_path: Path) -> None:
    digests = []
    for number, (old, new) in enumerate([("x", "x"), ("-1", ""), ("bright", "light")]):
        root = make_findings(tmp_path / str(number) / "images")
        text = (root / "labels.csv").read_text()
        (root / "labels.csv").write_text(text.replace(old, new, 1))
        digests.append(open_dataset(str(root), tmp_path, tmp_path / "cache").digest)
    assert len(set(digests)) == 3
    assert digests[0] == open_dataset(str(images), tmp_path, tmp_path / "cache").digest


def _without_split(rows: list[list[str]]) -> None:
    for row in rows:
        del row[1]


def _set(line: int, column: int, text: str) -> Any:
    def change(rows: list[list[str]]) -> None:
        rows[line][column] = text

    return change


def _all(column: int, text: str, splits: tuple[str, ...] = ("train",)) -> Any:
    def change(rows: list[list[str]]) -> None:
        for row in rows[1:]:
            row[column] = text if row[1] in splits else row[column]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_split, "have the columns path, split and one for each finding, got no 'split'"),
        (_set(1, 1, "training"), "say train, val or test as split, got 'training' in line 2"),
        (
            _set(1, 3, "yes"),
            "hold 1, 0, -1 (uncertain) or nothing (unknown) for a finding, got 'yes' as 'bright' in line 2",
        ),
        (_set(2, 0, "scans/train0.png"), "list each image once, got 'scans/train0.png' twice"),
        (_set(1, 0, "scans/gone.png"), "list images that are there, got 1 that are not: 'scans/gone.png'"),
        (_set(1, 0, "../out.png"), "hold paths inside the folder, in UTF-8, got '../out.png'"),
        (_set(0, 4, "bright"), "name each column once, a finding each, got 'bright' twice"),
        (_set(1, 2, "test0"), "have each group in one split, got 1 in several: 'test0'"),
        (_all(3, "0"), "have training images with and without each finding, got none with bright"),
        (_all(1, "train", ("val",)), "have images in train, val and test, got none in val"),
        (lambda rows: rows[1].pop(), "have 6 values in each line, got 5 in line 2"),
        (
            lambda rows: [_all(column, "0", ("test",))(rows) for column in (3, 4, 5)],
            "have a finding that at least 10 images of test have and 10 do not, got none",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, change: Any, said: str) -> None:
    root = make_findings(tmp_path / "images")
    with (root / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(UserError) as error:
        open_dataset(str(root), tmp_path, tmp_path / "cache")
    assert said in str(error.value) and "labels.csv must" in str(error.value)


def predictions(seed: int, shift: float = 1.0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Two images a patient, three findings of which some are unknown, and the last is too rare."""
    rng = np.random.default_rng(7)
    targets = (rng.random((60, 3)) < [0.5, 0.3, 0.05]).astype(float)
    logits = np.random.default_rng(seed).normal(size=(60, 3)) + shift * targets
    targets[rng.random((60, 3)) < 0.1] = np.nan
    columns: dict[str, Any] = {"split": "test", "path": [f"{i:02}.png" for i in range(60)]}
    columns |= {f"target_{name}": pd.array(targets[:, i], dtype="Int64") for i, name in enumerate(NAMES)}
    columns |= {"group": [f"p{i // 2}" for i in range(60)]}
    columns |= {f"prob_{name}": expit(logits[:, i]) for i, name in enumerate(NAMES)}
    columns |= {f"logit_{name}": logits[:, i] for i, name in enumerate(NAMES)}
    return pd.DataFrame(columns), targets, logits


def test_the_macro_auc_is_the_mean_over_findings_that_can_be_scored() -> None:
    frame, targets, logits = predictions(1)
    known = ~np.isnan(targets)
    aucs = [roc_auc_score(targets[known[:, i], i], logits[known[:, i], i]) for i in (0, 1)]
    metrics = finding_metrics(targets, logits, NAMES)
    assert metrics["auc"] == pytest.approx(np.mean(aucs))
    assert list(metrics["auc_per_class"].values()) == [*map(pytest.approx, aucs), None]
    f1 = [f1_score(targets[known[:, i], i], logits[known[:, i], i] > 0) for i in (0, 1)]
    assert metrics["macro_f1"] == pytest.approx(np.mean(f1))
    data = frame.to_csv(index=False).encode()
    evidence = read_evidence(data)
    assert evidence.auc == pytest.approx(np.mean(aucs)) and evidence.classes == ("bright", "striped")
    values = dict(zip(SCORES, read_scores(data).values, strict=True))
    mcc = [matthews_corrcoef(targets[known[:, i], i], logits[known[:, i], i] > 0) for i in (0, 1)]
    assert (values["macro_f1"], values["mcc"]) == pytest.approx((np.mean(f1), np.mean(mcc)))


def test_each_findings_variance_is_delongs_over_patients_and_the_means_has_their_covariance() -> None:
    """Image by image by a loop over pairs, then summed over patients, with Obuchowski's factors."""
    frame, targets, logits = predictions(2)
    units = np.repeat(np.arange(30), 2)
    shares = np.zeros((2, 30))
    for column in (0, 1):
        known = np.flatnonzero(~np.isnan(targets[:, column]))
        mine, own = targets[known, column] == 1, logits[known, column]
        placed = np.array(naive_placements(mine, own))
        for side in (True, False):
            chosen = mine == side
            part = (placed[chosen] - placed[chosen].mean()) / chosen.sum()
            count = len(np.unique(units[known[chosen]]))
            np.add.at(shares[column], units[known[chosen]], np.sqrt(count / (count - 1)) * part)
    data = frame.to_csv(index=False).encode()
    alone, unscored = finding_evidence(data)
    assert list(alone) == ["bright", "striped"] and unscored == ("rare",)
    for column, found in enumerate(alone.values()):
        assert np.sum(found.influence**2) == pytest.approx(np.sum(shares[column] ** 2), rel=1e-9)
    together = read_evidence(data)
    assert np.sum(together.influence**2) == pytest.approx(np.sum(shares.mean(axis=0) ** 2), rel=1e-9)


@pytest.fixture(scope="module")
def folder(images: Path) -> Path:
    ended = run(images.parent, "--methods", "linear", "bitfit", "full", "--seeds", "0", "1")
    assert ended.returncode == 0, ended.stderr
    return images.parent


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    with patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None):
        return finish_inside(folder, *RUN, *words)


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((folder / "results" / "runs").glob("[!.]*.json"))
    return {record["run_id"]: record for record in map(json.loads, (path.read_text() for path in paths))}


def test_runs_are_scored_as_their_predictions_say(folder: Path) -> None:
    records = stored(folder)
    assert len(records) == 6
    for run_id, record in records.items():
        path = folder / "results" / "runs" / f"{run_id}.predictions.csv"
        frame = pd.read_csv(path)
        assert "label" not in frame and set(frame["split"]) == {"val", "test"}
        for name in NAMES:
            np.testing.assert_allclose(frame[f"prob_{name}"], expit(frame[f"logit_{name}"]), rtol=1e-12)
        test = frame[frame["split"] == "test"]
        known = [test.dropna(subset=[f"target_{name}"]) for name in NAMES[:2]]
        aucs = [
            roc_auc_score(rows[f"target_{name}"], rows[f"logit_{name}"])
            for rows, name in zip(known, NAMES[:2], strict=True)
        ]
        measured = record["measurements"]["test"]
        assert list(measured["auc_per_class"].values()) == [*map(pytest.approx, aucs), None]
        assert measured["auc"] == pytest.approx(np.mean(aucs))
        assert read_evidence(path.read_bytes()).auc == pytest.approx(measured["auc"])
        assert record["run"]["config"]["loss"] == "bce" and record["run"]["dataset"]["findings"]["images"] == COUNTS
    row = load_frame(folder / "results")[0].iloc[0]
    assert (row["num_train"], row["num_classes"]) == (40, 3) and pd.isna(row["majority_share"])


def test_findings_have_a_table_with_delongs_p_by_holm(folder: Path) -> None:
    """One seed's p of two trained models is DeLong's, by the formula; Holm's over two findings by hand."""
    results = folder / "results"
    found = pd.read_csv(results / "tables" / "results.findings.csv")
    assert list(found["finding"].unique()) == list(NAMES)
    assert found.loc[found["finding"] == "rare", "auc_mean"].isna().all()
    records = stored(folder)
    for (finding, method), rows in found.dropna(subset=["auc_mean"]).groupby(["finding", "method"]):
        runs = [record for record in records.values() if record["run"]["config"]["method"] == method]
        aucs = [record["measurements"]["test"]["auc_per_class"][finding] for record in runs]
        (row,) = rows.to_dict("records")
        assert row["auc_mean"] == pytest.approx(np.mean(aucs)) and row["auc_low"] <= row["auc_mean"] <= row["auc_high"]
        assert (row["reference"] == "Full fine-tuning") == (method != "full")
    for method in ("linear", "bitfit"):
        rows = found[(found["method"] == method) & found["p"].notna()].sort_values("p")
        smaller, larger = rows["p"]
        assert rows["p_holm"].tolist() == pytest.approx([min(1, 2 * smaller), max(min(1, 2 * smaller), larger)])
    text = (results / "tables" / "results.md").read_text()
    assert "## Findings of images at 32 px" in text and "fewer do not: rare." in text


def test_of_one_seed_the_p_is_delongs() -> None:
    """Against a z test of the difference by its structural components."""
    frames = [predictions(seed)[0].assign(group="") for seed in (3, 4)]
    _, targets, first = predictions(3)
    second = predictions(4)[2]
    for column, name in enumerate(NAMES[:2]):
        known = ~np.isnan(targets[:, column])
        mine = targets[known, column] == 1
        placed = [np.array(naive_placements(mine, logits[known, column])) for logits in (first, second)]
        change = placed[0][mine].mean() - placed[1][mine].mean()
        apart = placed[0] - placed[1]
        variance = sum(apart[mine == side].var(ddof=1) / (mine == side).sum() for side in (True, False))
        cells = [{0: finding_evidence(frame.to_csv(index=False).encode()).scored[name]} for frame in frames]
        (compared,) = SameImages(cells).compare([(0, 1)])
        assert compared is not None and compared.change == pytest.approx(change)
        # the variance is the larger of DeLong's and of what is expected with equal AUCs: p is no smaller
        assert compared.p >= 2 * norm.sf(abs(change) / np.sqrt(variance)) * (1 - 1e-9)
        assert compared.p == pytest.approx(2 * norm.sf(abs(change) / np.sqrt(variance)), abs=0.1)


def test_methods_that_read_labels_themselves_train_on_findings(images: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(images)
    methods = ["knn", "simpleshot", "head2toe", "lora_ga"]
    with patch("benchmarks.commands.run.show_results", lambda *_: 0):
        ended = run(tmp_path, "--methods", *methods, "--set", "lora_ga.rank=4", "lora_ga.num_batches=2")
    assert ended.returncode == 0, ended.stderr
    records = stored(tmp_path)
    assert sorted(record["run"]["config"]["method"] for record in records.values()) == sorted(methods)
    for run_id, record in records.items():
        assert record["status"]["state"] == "ok" and record["run"]["config"]["loss"] == "bce"
        frame = pd.read_csv(tmp_path / "results/runs" / f"{run_id}.predictions.csv").query("split == 'test'")
        model = load_run(tmp_path / "results", run_id, cache=tmp_path / ".cache")
        found, problems = predict(model, [images / path for path in frame["path"]])
        assert not problems
        columns = [f"prob_{name}" for name in NAMES]
        np.testing.assert_allclose(found[columns], frame[columns], atol=1e-4)
    other = run(tmp_path, "--methods", "linear", "--loss", "cross_entropy", "--dry-run")
    assert other.returncode == 2 and "loss must be one for images of several findings, as images has" in other.stderr


def test_the_kept_model_predicts_independent_probabilities(folder: Path) -> None:
    record = next(each for each in stored(folder).values() if each["run"]["config"]["method"] == "bitfit")
    frame = pd.read_csv(folder / "results" / "runs" / f"{record['run_id']}.predictions.csv").query("split == 'test'")
    model = load_run(folder / "results", record["run_id"], cache=folder / ".cache")
    found, problems = predict(model, [folder / "images" / path for path in frame["path"]])
    assert not problems
    columns = [f"prob_{name}" for name in NAMES]
    np.testing.assert_allclose(found[columns], frame[columns], atol=1e-5)
    np.testing.assert_allclose(found[columns], expit(found[[f"logit_{name}" for name in NAMES]]), rtol=1e-9)


def test_an_ensemble_averages_probabilities_of_findings(folder: Path) -> None:
    paths = sorted((folder / "results" / "runs").glob("*-linear-s*.predictions.csv"))
    frames = [pd.read_csv(path).query("split == 'test'") for path in paths]
    aucs = []
    for name in NAMES[:2]:
        mean = sum(expit(frame[f"logit_{name}"].to_numpy()) for frame in frames) / len(frames)
        known = frames[0][f"target_{name}"].notna().to_numpy()
        aucs.append(roc_auc_score(frames[0][f"target_{name}"][known], mean[known]))
    assert score([path.read_bytes() for path in paths]).evidence.auc == pytest.approx(np.mean(aucs))


def test_over_folds_each_finding_keeps_its_own_images() -> None:
    """Twice the images with and without each: the interval is that of one test split in which every image is twice."""
    frame = predictions(5)[0].assign(group="")
    one = read_evidence(frame.to_csv(index=False).encode())
    copies = pd.concat([frame, frame.assign(path="again " + frame["path"])])
    twice = read_evidence(copies.to_csv(index=False).encode())
    folds = fold_evidence([one, one])
    assert folds.num_parts == 2 and folds.num_images == 2 * one.num_images
    expected, found = (SameImages([{0: each}]).intervals()[0] for each in (twice, folds))
    assert expected is not None and found is not None
    assert found[:3] == pytest.approx(expected[:3], abs=2e-3)
