"""bench.py explain: pictures, maps and tables of images by a kept model; and the pointing game on the demo."""

import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from bench_process import TINY
from inside import finish_inside
from PIL import Image
from small_backbones import SMALL
from tiny_images import make_images

from benchmarks.records.record import kept_models
from benchmarks.speed.explain import Scene, on_lesion, rank, shares
from datasets.fundus import LARGE, SIDE, Lesions, covered, draw_fundus, draw_with_places, within_reach
from datasets.fundus import SMALL as SMALL_LESIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    make_images(root / "images")
    (root / "broken.png").write_bytes(b"no image")
    backbone = ["--backbone", f"vit_tiny_patch16_224[{SMALL}]", "--epochs", "1"]
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        assert finish_inside(root, "--methods", "bitfit", *TINY, *backbone).returncode == 0
    return root


def explain(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    (run_id,) = kept_models(folder / "results")
    return finish_inside(folder, "explain", run_id, *words)


def test_a_folder_of_pictures_maps_and_tables(folder: Path) -> None:
    said = explain(folder, "images/test/dark", "broken.png", "--out", "made", "--steps", "2", "--target", "dark")
    assert said.returncode == 1 and "broken.png" in said.stderr and "5/5 images" in said.stderr
    assert "maps by rollout (share of the attention); the map is the same for every class" in said.stderr
    assert "deletion (lower is better)" in said.stdout and "of 4" in said.stdout
    table = pd.read_csv(folder / "made/explanations.csv")
    assert len(table) == 4 and set(table["class"]) == {"dark"} and set(table["how"]) == {"rollout"}
    for row in table.itertuples():
        values = np.load(folder / "made" / str(row.map))
        assert values.shape == (2, 2) and values.sum() == pytest.approx(1, abs=1e-6)
        peak = np.unravel_index(values.argmax(), values.shape)
        assert (row.peak_y, row.peak_x) == ((peak[0] + 0.5) / 2, (peak[1] + 0.5) / 2)
        with Image.open(folder / "made" / str(row.picture)) as picture:
            assert picture.width > 1000
    curves = pd.read_csv(folder / "made/curves.csv")
    assert len(curves) == 4 * 2 * 3 * 3 and curves["fraction"].tolist()[:3] == [0, 0.5, 1]
    one = curves[(curves["path"] == table["path"][0]) & (curves["curve"] == "deletion") & (curves["order"] == "map")]
    first, middle, last = one["probability"]
    assert table["deletion_map"][0] == pytest.approx((first + 2 * middle + last) / 4)
    assert first == pytest.approx(table["probability"][0], abs=1e-6)
    assert (folder / "made/sheet.png").stat().st_mode & 0o777 == 0o600
    again = explain(folder, "images/test/dark", "--out", "made")
    assert again.returncode == 2 and "out must be a new or an empty folder, got 'made', which holds" in again.stderr


def test_what_is_asked_for_is_done(folder: Path) -> None:
    said = explain(folder, "images/test/dark/0.png", "--out", "other", "--steps", "0", "--how", "occlusion")
    assert said.returncode == 0 and said.stdout == "" and "maps by occlusion (drop of the log prob" in said.stderr
    assert sorted(path.name for path in (folder / "other").iterdir()) == [
        *("0001_0.npy", "0001_0.png", "explanations.csv", "sheet.png")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "drak"], "target must be one of bright, dark, got 'drak'; did you mean dark?"),
        (["--how", "attention"], "got 'attention', which needs queries or prompts of the method's own"),
        (["--how", "guess"], "how must be one of "),
        (["--steps", "-1"], "steps must be at least 0, got '-1'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(folder: Path, words: list[str], message: str) -> None:
    said = explain(folder, "images/test/dark/0.png", "--out", "none", *words)
    assert said.returncode == 2 and message in said.stderr
    assert not (folder / "none").exists()


def test_images_that_all_cannot_be_read_are_refused(folder: Path) -> None:
    said = explain(folder, "broken.png", "--out", "none")
    assert said.returncode == 2 and "images must be readable, got none that is; see the lines above" in said.stderr


@pytest.mark.parametrize("lesions", [LARGE, SMALL_LESIONS], ids=["large", "small"])
def test_lesions_are_where_they_are_said_to_be(lesions: Lesions) -> None:
    clear = np.asarray(draw_fundus(np.random.default_rng(3), None), dtype=int)
    image, spots = draw_with_places(np.random.default_rng(3), lesions)
    again = draw_fundus(np.random.default_rng(3), lesions)
    assert image.tobytes() == again.tobytes()
    changed = (np.asarray(image, dtype=int) != clear).any(axis=2)
    on_lesions = covered(spots)
    assert not (changed & ~on_lesions).any() and changed.sum() > 0.6 * on_lesions.sum()
    assert all(within_reach()[round(spot.y), round(spot.x)] for spot in spots)
    assert draw_with_places(np.random.default_rng(3), None)[1] == []


def test_a_map_of_the_lesions_themselves_wins_the_pointing_game_and_an_upside_down_one_loses() -> None:
    image, spots = draw_with_places(np.random.default_rng(0), LARGE)
    scene = Scene(image, covered(spots))
    area = shares(scene.lesions, 14, 14)
    assert area.mean() == pytest.approx(scene.lesions.mean(), rel=0.01) and area.max() <= 1
    assert rank(scene, area.astype(np.float32)) == pytest.approx(1)
    assert rank(scene, -area.astype(np.float32)) == pytest.approx(-1)
    assert rank(scene, np.ones((14, 14), dtype=np.float32)) == 0
    assert on_lesion(scene, (spots[0].x / SIDE, spots[0].y / SIDE)) and not on_lesion(scene, (0, 0))
