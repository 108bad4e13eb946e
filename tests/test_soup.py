"""bench.py soup: the mean of the weights of seeds, beside means by hand, and as rows of tables."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from inside import finish_inside
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss, roc_auc_score
from small_backbones import SMALL
from tiny_images import COUNTS, make_images

from benchmarks.errors import UserError
from benchmarks.inference.kept import Kept, mean_of
from benchmarks.model.backbone import create_backbone
from benchmarks.records.record import kept_models, model_path, predictions_path, read_record, write_record
from benchmarks.records.stored import evaluation_results

BACKBONE = f"vit_tiny_patch16_224[{SMALL}]"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a probe on noisy images, two of LoRA, and what no soup is made of."""
    root = tmp_path_factory.mktemp("soup")
    with patch.dict(COUNTS, train=8, val=10, test=10):
        make_images(root / "images")
    torch.manual_seed(7)
    save_file(create_backbone(BACKBONE).trunk.state_dict(), root / "weights.safetensors")
    common = ["--datasets", "images", "--res", "64", "--batch-size", "4", "--device", "cpu", "--epochs", "1"]
    common += ["--backbone", BACKBONE, "--weights", "weights.safetensors"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        for methods in (
            ["linear", "--seeds", "0", "1", "2", "--lr", "0.01"],
            ["lora:rank=2", "--seeds", "0", "1"],
            ["lora:rank=4", "knn", "--set", "knn.num_neighbours=3"],
        ):
            ended = finish_inside(root, "--methods", *methods, *common)
            assert ended.returncode == 0, ended.stderr
    return root


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def soup(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return finish_inside(folder, "soup", *words, "--weights", "weights.safetensors", "--data", "images")


def runs_of(folder: Path, method: str) -> list[str]:
    return [run_id for run_id in kept_models(folder / "results") if f"-{method}-s" in run_id]


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of soups by way."""
    paths = sorted((folder / "results/evaluations/runs").glob("*.json"))
    return {record["evaluation"]["soup"]["way"]: record for record in map(read_record, paths)}


def logits(results: Path, run_id: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = pd.read_csv(predictions_path(results, run_id)).query("split == @split").sort_values("path")
    return rows[["logit_bright", "logit_dark"]].to_numpy(), (rows["label"] == "dark").to_numpy()


def quality(values: np.ndarray, dark: np.ndarray) -> tuple[float, float]:
    """AUC, and the negative loss that decides between equals."""
    each = np.exp(values - values.max(axis=1, keepdims=True))
    loss = log_loss(dark, (each / each.sum(axis=1, keepdims=True))[:, 1])
    return round(float(roc_auc_score(dark, values[:, 1] - values[:, 0])), 12), -float(loss)


def test_a_uniform_soup_of_probes_is_the_mean_of_their_weights_by_hand(folder: Path) -> None:
    """A probe is linear in its weights, so that its soup answers with the mean of the logits as well."""
    two, results = runs_of(folder, "linear")[:2], folder / "results"
    said = soup(folder, *two, "--way", "uniform", "--out", "soup.safetensors")
    assert said.returncode == 0, said.stderr
    record = stored(folder)["uniform"]
    found, members = load_file(folder / "soup.safetensors"), [load_file(model_path(results, name)) for name in two]
    assert found.keys() == members[0].keys()
    for name, tensor in found.items():
        expected = (members[0][name].numpy().astype("float64") + members[1][name].numpy()) / 2
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)
    for split in ("val", "test"):
        now, dark = logits(evaluation_results(results), record["run_id"], split)
        mean = (logits(results, two[0], split)[0] + logits(results, two[1], split)[0]) / 2
        np.testing.assert_allclose(now, mean, atol=1e-5)
        assert record["measurements"][split]["auc"] == pytest.approx(quality(mean, dark)[0])
    assert f"test AUC {record['measurements']['test']['auc']:.4f}, mean of the single seeds" in said.stdout


def test_a_greedy_soup_adds_in_order_what_validation_does_not_punish(folder: Path) -> None:
    results, names = folder / "results", runs_of(folder, "linear")
    assert len(names) == len(SEEDS)
    assert soup(folder, names[1], "--way", "greedy").returncode == 0  # one run stands for all its seeds
    record = stored(folder)["greedy"]
    val = {name: logits(results, name, "val") for name in names}
    order = sorted(names, key=lambda name: quality(*val[name]), reverse=True)
    used = order[:1]
    for name in order[1:]:
        mean = np.mean([val[one][0] for one in (*used, name)], axis=0)
        if quality(mean, val[name][1]) >= quality(np.mean([val[one][0] for one in used], axis=0), val[name][1]):
            used.append(name)
    said = record["evaluation"]["soup"]
    assert said["members"].split() == order and said["used"].split() == used
    assert record["measurements"]["val"]["auc"] >= max(quality(*val[name])[0] for name in names) - 1e-9
    assert said["best_val_auc"] == pytest.approx(quality(*val[order[0]])[0])


def test_weights_that_do_not_average_leave_the_best_alone(folder: Path) -> None:
    """As a greedy soup of one model, it is that model to the last bit; the uniform one is stored as it is, and said."""
    results = folder / "results"
    names = [name for name in runs_of(folder, "lora") if rank_of(results, name) == 2]
    falling = iter([(0.9, 0.0), (0.8, 0.0)])
    with patch("benchmarks.inference.soup.preference", lambda auc, loss: next(falling)):
        said = soup(folder, *names, "--way", "greedy", "--out", "soup.safetensors")
    assert said.returncode == 0 and "greedy soup of 1 of 2 seeds" in said.stdout
    assert "1 left out, as they lower it" in said.stdout
    record = stored(folder)["greedy"]
    (used,) = record["evaluation"]["soup"]["used"].split()
    for split in ("val", "test"):
        now, _ = logits(evaluation_results(results), record["run_id"], split)
        np.testing.assert_array_equal(now, logits(results, used, split)[0])
    one, other = load_file(folder / "soup.safetensors"), load_file(model_path(results, used))
    assert all(torch.equal(one[name], other[name]) for name in other)


def rank_of(results: Path, run_id: str) -> int:
    return int(read_record(results / f"runs/{run_id}.json")["run"]["config"]["options"]["rank"])


def test_its_file_is_used_as_that_of_a_run(folder: Path) -> None:
    names = runs_of(folder, "linear")
    assert soup(folder, *names, "--way", "uniform", "--out", "soup.safetensors").returncode == 0
    given = ["--weights", "weights.safetensors", "--out", "made.csv"]
    said = finish_inside(folder, "predict", "soup.safetensors", "images/test", *given)
    assert said.returncode == 0 and "@soup-uniform-" in said.stderr and "not for clinical use" in said.stderr
    made = pd.read_csv(folder / "made.csv").sort_values("path")[["logit_bright", "logit_dark"]].to_numpy()
    now, _ = logits(folder / "results/evaluations", stored(folder)["uniform"]["run_id"], "test")
    np.testing.assert_allclose(made, now, atol=1e-5)


def test_the_test_split_is_scored_once(folder: Path) -> None:
    first = soup(folder, *runs_of(folder, "linear"))
    assert first.returncode == 0 and set(stored(folder)) == {"uniform", "greedy"}
    before = {path.name: path.read_bytes() for path in (folder / "results/evaluations/runs").glob("*.json")}
    with patch("benchmarks.inference.soup.predict", side_effect=AssertionError):
        again = soup(folder, *runs_of(folder, "linear"))
    assert again.stdout == first.stdout
    assert {p.name: p.read_bytes() for p in (folder / "results/evaluations/runs").glob("*.json")} == before


@pytest.mark.slow
def test_tables_show_soups_beside_their_seeds_and_rank_nothing_by_them(folder: Path) -> None:
    assert finish_inside(folder, "tables", "--ensembles", "soups").returncode == 2  # none yet
    assert finish_inside(folder, "tables").returncode == 0
    verdict = (folder / "results/tables/results.md").read_text().split("## images")[0]
    assert soup(folder, *runs_of(folder, "linear")).returncode == 0
    said = finish_inside(folder, "tables", "--ensembles", "soups", "seeds")
    assert said.returncode == 0, said.stderr
    text, table = (folder / "results/tables/results.md").read_text(), pd.read_csv(folder / "results/tables/results.csv")
    assert text.split("## images")[0] == verdict
    rows = table[table["label"].str.contains("soup of")].set_index("label")
    assert len(rows) == 2 and set(rows["state"]) == {"ensemble"} and set(rows["members"]) == {1}
    record = stored(folder)["uniform"]
    row = rows.loc["Uniform soup of 3 seeds: Linear probe"]
    assert row["auc_mean"] == pytest.approx(record["measurements"]["test"]["auc"])
    assert row["auc_low"] <= row["auc_mean"] <= row["auc_high"]
    val = 100 * record["measurements"]["val"]["auc"]
    assert f"Uniform soup of 3 seeds: Linear probe: AUC {val:.2f} % on validation" in text and "1 model" in text
    run_id = runs_of(folder, "linear")[0]  # as if a member had been done again since, with another result
    runs = read_record(folder / f"results/runs/{run_id}.json")
    rewritten = predictions_path(folder / "results", run_id)
    rewritten.write_text(rewritten.read_text().rstrip("\n") + "\n\n")
    write_record(folder / "results", runs | {"predictions_sha256": hashlib.sha256(rewritten.read_bytes()).hexdigest()})
    gone = finish_inside(folder, "tables", "--ensembles", "soups")
    assert gone.returncode == 2 and "got 'soups', which can be made nowhere; bench.py soup RUN makes so" in gone.stderr


def test_what_has_no_mean_is_refused_in_a_line(folder: Path) -> None:
    results = folder / "results"
    low, high = (next(name for name in runs_of(folder, "lora") if rank_of(results, name) == rank) for rank in (2, 4))
    knn, linear = runs_of(folder, "knn"), runs_of(folder, "linear")
    for named, message in (
        ([low, high], "must differ in their seed alone, got .* which differ in rank (2 and 4)"),
        ([linear[0], low], "which differ in method ('linear' and 'lora'),"),
        ([knn[0]], "must have weights that were trained, got .* knn makes its model from the features"),
        ([high], "must be 2 or more whose models are kept, got .* alone; run more --seeds with --keep-models all"),
    ):
        said = soup(folder, *named)
        assert said.returncode == 2 and len(said.stderr.splitlines()) == 1, said.stderr
        parts = message.split(" .* ")
        assert all(part in said.stderr for part in parts), said.stderr
    said = soup(folder, low, "--out", "soup.safetensors")
    assert said.returncode == 2 and "out must be a file *.safetensors, with one --way" in said.stderr
    (folder / "images/val/dark/0.png").unlink()
    assert "data must be what the runs were trained on" in soup(folder, low).stderr


def kept(value: float, **more: torch.Tensor) -> Kept:
    return Kept({"weight": torch.tensor([value, 2.0]), **more}, {"model": (1.0, 4.0), "extractor": None})


def test_means_of_tensors() -> None:
    """Counts are the largest, choices must agree, and a model alone is its own mean."""
    seen = [torch.tensor(number) for number in (3, 5)]
    found = mean_of([kept(1.0, seen=seen[0]), kept(4.0, seen=seen[1])])
    assert found.tensors["weight"].tolist() == [2.5, 2.0] and found.tensors["seen"].item() == 5
    assert found.frozen == kept(0).frozen and found.tensors["weight"].dtype == torch.float32
    one = kept(1 / 3, mask=torch.tensor([True, False]))
    alone = mean_of([one])
    assert alone.tensors.keys() == one.tensors.keys()
    assert all(torch.equal(alone.tensors[name], tensor) for name, tensor in one.tensors.items())
    with pytest.raises(UserError, match="got other choices in mask, which have no mean"):
        mean_of([one, kept(1, mask=torch.tensor([False, True]))])
    with pytest.raises(UserError, match="got tensors of other names or shapes"):
        mean_of([one, kept(1)])
    other = Kept(one.tensors, {"model": (9.0, 4.0), "extractor": None})
    with pytest.raises(UserError, match="got others of what does not train"):
        mean_of([one, other])
