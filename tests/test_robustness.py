"""bench.py evaluate --corruptions: what is done to images, what is stored, and what tables and figures say."""

import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from inside import finish_inside
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score
from small_backbones import SMALL
from tiny_images import COUNTS, make_images

from benchmarks.analysis.evidence import Evidence
from benchmarks.analysis.influence import influence
from benchmarks.analysis.robustness import Condition, mean_evidence, read_conditions
from benchmarks.inference.corruptions import CORRUPTIONS, conditions, corrupted
from benchmarks.inference.predict import predict
from benchmarks.inference.trained import load_run
from benchmarks.records.record import kept_models, read_record

PIXELS = np.random.default_rng(3).integers(0, 256, (3, 32, 32)).astype(np.uint8)


def one(name: str, severity: int, image: str = "a.png", pixels: np.ndarray = PIXELS) -> np.ndarray:
    return corrupted({"image": pixels}, image, name, severity)["image"]


@pytest.mark.parametrize("name", ["brighter", "darker"])
@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_multiplies_every_pixel(name: str, severity: int) -> None:
    factor = CORRUPTIONS[name].values[severity - 1]
    found = one(name, severity)
    for place, value in np.ndenumerate(PIXELS):
        assert abs(int(found[place]) - min(factor * int(value), 255)) <= 1


def test_contrast_moves_pixels_towards_the_mean_grey() -> None:
    grey = np.rint(np.tensordot([0.2989, 0.587, 0.114], PIXELS.astype(float), 1))  # ITU-R 601
    factor = CORRUPTIONS["contrast"].values[4]
    expected = np.clip(factor * PIXELS.astype(float) + (1 - factor) * grey.mean(), 0, 255)
    assert np.abs(one("contrast", 5) - expected).max() <= 1.5


def test_blur_and_resolution_are_those_of_pillow_nearly() -> None:
    smooth = np.asarray(Image.fromarray(PIXELS.transpose(1, 2, 0)).resize((224, 224), Image.Resampling.BICUBIC))
    pixels = np.ascontiguousarray(smooth.transpose(2, 0, 1))
    blurred = np.asarray(Image.fromarray(smooth).filter(ImageFilter.GaussianBlur(2.0))).transpose(2, 0, 1)
    inside = (slice(None), slice(16, -16), slice(16, -16))
    assert np.abs(one("blur", 5, pixels=pixels).astype(int) - blurred)[inside].mean() < 1.5
    assert np.abs(pixels.astype(int) - blurred)[inside].mean() > 2  # what is compared with does something
    small = Image.fromarray(smooth).resize((78, 78), Image.Resampling.BILINEAR)
    again = np.asarray(small.resize((224, 224), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(one("resolution", 5, pixels=pixels).astype(int) - again).mean() < 1


def test_noise_has_its_deviation_and_leaves_grey_images_grey() -> None:
    flat = np.full((3, 200, 200), 128, dtype=np.uint8)
    found = one("noise", 2, pixels=flat)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    assert found.std() == pytest.approx(0.08 * 255, rel=0.02) and found.mean() == pytest.approx(128, abs=0.5)
    flat[0] += 1
    coloured = one("noise", 2, pixels=flat).astype(float)
    assert abs(np.corrcoef(coloured[0].ravel(), coloured[1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_corruption_grows_and_depends_on_the_image_alone(name: str) -> None:
    smooth = np.asarray(Image.fromarray(PIXELS.transpose(1, 2, 0)).resize((96, 96))).transpose(2, 0, 1).copy()
    changes = [np.abs(one(name, severity, pixels=smooth) - smooth.astype(float)).mean() for severity in range(6)]
    assert changes[0] == 0 and (np.diff(changes) > 0).all()
    before = one(name, 3)
    one(name, 3, image="b.png"), one("noise", 1)  # others in between
    assert np.array_equal(before, one(name, 3))
    if name == "noise":
        assert not np.array_equal(before, one(name, 3, image="b.png"))
    views = corrupted({"image": PIXELS, "image_low": PIXELS[:, ::2, ::2].copy()}, "a.png", name, 3)
    assert np.array_equal(views["image"], before) and views["image_low"].shape == (3, 16, 16)
    low = np.asarray(Image.fromarray(before.transpose(1, 2, 0)).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(views["image_low"], low.transpose(2, 0, 1))


def test_severity_zero_is_the_image_bit_for_bit() -> None:
    assert np.array_equal(one("clean", 0), PIXELS)
    assert len(list(conditions())) == 1 + 5 * len(CORRUPTIONS)


def evidence(labels: np.ndarray, scores: np.ndarray) -> Evidence:
    found = influence(labels, np.stack([-scores, scores], axis=1), np.arange(len(labels)))
    counts = np.bincount(labels)
    return Evidence("same", "image", found.auc, found.units, found.design_effect, counts, counts)


def auc_by_pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    return float((scores[labels == 1][:, None] > scores[labels == 0]).mean())


def test_the_interval_of_a_drop_is_that_of_a_naive_paired_bootstrap() -> None:
    """Of one model: the mean drop over two conditions, images resampled with all their scores."""
    from benchmarks.analysis.comparison import SameImages

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    clean = labels + rng.normal(0, 0.8, 300)
    hurt = [clean + rng.normal(0, noise, 300) for noise in (0.5, 1.0)]
    cells = [{0: evidence(labels, clean)}, {0: mean_evidence([evidence(labels, scores) for scores in hurt])}]
    (drop,) = SameImages(cells).compare([(0, 1)])
    assert drop is not None
    drawn = []
    for _ in range(600):
        picked = np.concatenate([rng.choice(150, 150), 150 + rng.choice(150, 150)])
        aucs = [auc_by_pairs(labels[picked], scores[picked]) for scores in (clean, *hurt)]
        drawn.append(aucs[0] - np.mean(aucs[1:]))
    assert drop.change == pytest.approx(np.mean(drawn), abs=0.003)
    assert drop.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.012)
    assert drop.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.012)
    alone = [roc_auc_score(labels, scores) for scores in hurt]
    assert cells[1][0].auc == pytest.approx(np.mean(alone))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods, one with cached features, evaluated on their own corrupted test images."""
    root = tmp_path_factory.mktemp("robust")
    with patch.dict(COUNTS, test=8):
        make_images(root / "data" / "images")
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1", "--seeds", "0", "1"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert (
            finish_inside(
                root, "--methods", "linear", "bitfit", *TINY[2:], "--datasets", "data/images", *backbone
            ).returncode
            == 0
        )
    for method in ("linear", "bitfit"):
        said = finish_inside(root, "evaluate", run_of(root, method), "--all-seeds", "--corruptions", "basic")
        assert said.returncode == 0, said.stderr
        assert len(said.stdout.splitlines()) == 2 and "clean images of images" in said.stdout
    return root


def run_of(folder: Path, method: str, seed: int = 0) -> str:
    (run_id,) = [run_id for run_id in kept_models(folder / "results") if f"-{method}-s{seed}-" in run_id]
    return run_id


def evaluation_of(folder: Path, run_id: str) -> Path:
    (path,) = (folder / "results/evaluations/runs").glob(f"{run_id}@*-corruptions.json")
    return path


@pytest.mark.parametrize("method", ["linear", "bitfit"])
def test_clean_logits_are_those_of_the_run_bit_for_bit(trained: Path, method: str) -> None:
    run_id = run_of(trained, method)
    path = evaluation_of(trained, run_id)
    assert read_record(path)["evaluation"]["kind"] == "corruptions"
    made = pd.read_csv(predictions(path))
    assert len(made) == 16 * (1 + 5 * len(CORRUPTIONS))
    clean = made[made["split"] == "test"].reset_index(drop=True)
    run = pd.read_csv(trained / f"results/runs/{run_id}.predictions.csv")
    run = run[run["split"] == "test"].reset_index(drop=True)
    columns = ["path", "label", "logit_bright", "logit_dark"]
    pd.testing.assert_frame_equal(clean[columns], run[columns], check_exact=True)
    changed = made[made["split"] == "noise-5"].reset_index(drop=True)
    assert not np.isclose(changed["logit_dark"], clean["logit_dark"]).any()


def predictions(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}.predictions.csv")


def test_corrupted_logits_are_those_of_corrupted_files(trained: Path, tmp_path: Path) -> None:
    """Whatever the order and the batch: what is stored is what the model says of the corrupted image alone."""
    run_id = run_of(trained, "linear")
    model = load_run(trained / "results", run_id, cache=trained / ".cache")
    names = ["test/dark/3.png", "test/bright/1.png"]
    for name in names:
        views = corrupted(model.read_one(trained / "data/images" / name), name, "noise", 4)
        place = tmp_path / Path(name).name
        Image.fromarray(views["image"].transpose(1, 2, 0)).save(place)
        expected = predict(model, [place], 1)[0].iloc[0]
        made = pd.read_csv(predictions(evaluation_of(trained, run_id)))
        row = made[(made["split"] == "noise-4") & (made["path"] == name)].iloc[0]
        assert row["logit_dark"] == pytest.approx(expected["logit_dark"], abs=1e-5)


def test_what_is_stored_is_not_done_again(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "mine"))
    run_id = run_of(folder, "linear")
    before = evaluation_of(folder, run_id).read_bytes()
    said = finish_inside(folder, "evaluate", run_id, "--corruptions", "basic")
    assert said.returncode == 0 and "corrupted images of images: stored" in said.stderr
    assert evaluation_of(folder, run_id).read_bytes() == before
    with patch("benchmarks.inference.robustness.settings", lambda: {"suite": "basic", "values": {}}):
        assert ": stored" not in finish_inside(folder, "evaluate", run_id, "--corruptions", "basic").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--corruptions", "medmnist-c"], "medmnistc 0.1.0 is pinned to scikit-image 0.23.2"),
        (["--corruptions", "harsh"], "corruptions must be basic, got 'harsh'"),
        ([], "data must be named with --data FOLDER, got none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(trained: Path, words: list[str], said: str) -> None:
    found = finish_inside(trained, "evaluate", run_of(trained, "linear"), *words)
    assert found.returncode == 2 and said in found.stderr and len(found.stderr.splitlines()) == 1


def test_other_images_in_the_datasets_place_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "mine"))
    shutil.copy(folder / "data/images/val/dark/0.png", folder / "data/images/test/dark/9.png")
    found = finish_inside(folder, "evaluate", run_of(folder, "linear"), "--corruptions", "basic")
    assert found.returncode == 2 and "dataset must be that on which" in found.stderr


def test_conditions_read_are_those_of_scikit_learn(trained: Path) -> None:
    path = predictions(evaluation_of(trained, run_of(trained, "bitfit", 1)))
    made, found = pd.read_csv(path), read_conditions(path.read_bytes())
    assert set(found) == {None, *(Condition(name, severity) for name, severity in conditions() if severity)}
    for condition, run in found.items():
        split = "test" if condition is None else f"{condition.corruption}-{condition.severity}"
        rows = made[made["split"] == split]
        assert run.auc == pytest.approx(
            roc_auc_score(rows["label"] == "dark", rows["logit_dark"] - rows["logit_bright"])
        )


def test_tables_and_figures_show_the_drop_and_its_paired_interval(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "mine"))
    said = finish_inside(folder, "tables")
    assert said.returncode == 0 and "results/tables/robustness.md" in said.stdout
    rows = pd.read_csv(folder / "results/tables/robustness.csv")
    assert len(rows) == 2 * (1 + 6 * len(CORRUPTIONS) + 1) and set(rows["seeds_evaluated"]) == {2}
    for method in ("linear", "bitfit"):
        found = {}
        for seed in (0, 1):
            path = predictions(evaluation_of(folder, run_of(folder, method, seed)))
            found[seed] = (
                pd.read_csv(path)
                .groupby("split")[["label", "logit_dark", "logit_bright"]]
                .apply(lambda part: roc_auc_score(part["label"] == "dark", part["logit_dark"] - part["logit_bright"]))
            )
        aucs = pd.DataFrame(found).mean(axis=1)
        mine = rows[rows["method"] == method]
        blur = mine[(mine["corruption"] == "blur") & (mine["severity"] == 5)].iloc[0]
        assert blur["drop_change"] == pytest.approx(aucs["test"] - aucs["blur-5"])
        mean = mine[(mine["corruption"] == "noise") & mine["severity"].isna()].iloc[0]
        expected = aucs["test"] - np.mean([aucs[f"noise-{severity}"] for severity in range(1, 6)])
        assert mean["drop_change"] == pytest.approx(expected)
        assert mean["drop_low"] <= mean["drop_change"] <= mean["drop_high"]
        every = mine[mine["corruption"] == "all"].iloc[0]
        assert every["drop_change"] == pytest.approx(aucs["test"] - aucs.drop("test").mean())
    text = (folder / "results/tables/robustness.md").read_text()
    assert "corrupted images of images" in text and " All |" in text and "2 of 2" in text
    with patch("benchmarks.report.canvas.SUFFIXES", (".png",)):
        drawn = finish_inside(folder, "plots")
    assert drawn.returncode == 0 and "plots/robustness_images_" in drawn.stdout, drawn.stderr


def test_evaluations_of_runs_done_again_are_named_and_left_out(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "mine"))
    for path in (folder / "results/runs").glob("*-linear-*"):
        path.unlink()
    said = finish_inside(folder, "tables")
    assert said.returncode == 1
    assert len([line for line in said.stderr.splitlines() if "evaluation must be of a stored run" in line]) == 2
    assert set(pd.read_csv(folder / "results/tables/robustness.csv")["method"]) == {"bitfit"}
