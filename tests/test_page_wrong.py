"""report --images: which test images methods get wrong, by naive loops over predictions, and their thumbnails."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from browser import browser, console, requests, set_width
from inside import finish_inside
from PIL import Image
from small_backbones import SMALL
from test_page import choose, find, settle, texts
from tiny_images import COUNTS, make_images

from benchmarks.images.decode import read_thumbnail
from benchmarks.records.record import load_records, predictions_path
from benchmarks.report.page_panels import Shown
from benchmarks.report.page_wrong import SIDE, _questions, chosen_images
from benchmarks.storage.name_key import hashed, read_key

METHODS = ("linear", "bitfit")
HASHED = ["--methods", "linear", "--hash-names", "--results", "hashed"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods on noisy images; and one of names that are hashed."""
    root = tmp_path_factory.mktemp("wrong")
    with patch.dict(COUNTS, train=6, val=4, test=8):
        make_images(root / "data/images")
    common = ["--datasets", "images", "--data-root", "data", "--res", "64", "--batch-size", "4", "--device", "cpu"]
    common += [
        "--backbone",
        f"vit_tiny_patch16_224[{SMALL}]",
        "--weights",
        "none",
        "--epochs",
        "1",
        "--lr",
        "1e-7",
    ]  # which learns nothing
    with (
        patch("benchmarks.suite.run.Run._predict_memory", lambda *_: None),
        patch("benchmarks.commands.run.show_results", lambda *_: 0),
    ):
        for words in (["--methods", *METHODS, "--seeds", "0", "1"], HASHED):
            ended = finish_inside(root, *words, *common)
            assert ended.returncode == 0, ended.stderr
    return root


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def report(folder: Path, *words: str, results: str = "results") -> tuple[dict[str, Any], str, int]:
    """The section, what was said, and the status."""
    ended = finish_inside(folder, "report", "--data-root", "data", "--results", results, *words)
    page = (folder / results / "report.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return (json.loads(data[1]).get("wrong") or [{}])[0], ended.stderr, ended.returncode


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("L"), dtype=float)


def test_images_are_those_that_naive_loops_find(folder: Path) -> None:
    section, said, status = report(folder, "--images", "3")
    assert status == 0, said
    (place,) = section["places"]
    assert place["methods"] == ["Linear probe", "BitFit"] and place["answers"] == ["bright", "dark"]
    means: list[dict[str, float]] = []  # of each method the probability of the truth by path
    truth: dict[str, str] = {}
    for method in METHODS:
        files = [
            pd.read_csv(predictions_path(folder / "results", record["run_id"])).query("split == 'test'")
            for record in load_records(folder / "results")[0]
            if record["run"]["config"]["method"] == method
        ]
        assert len(files) == 2
        sums: dict[str, float] = {}
        for file in files:
            for _, row in file.iterrows():
                truth[row["path"]] = row["label"]
                sums[row["path"]] = sums.get(row["path"], 0.0) + row[f"prob_{row['label']}"] / 2
        means.append(sums)
    paths = sorted(truth)
    for i, mean in enumerate(means):
        expected = sorted((mean[path], path) for path in paths if mean[path] < 0.5)[:3]
        shown = [place["entries"][entry] for entry in place["orders"][str(i)]]
        assert [entry["number"] for entry in shown] == [paths.index(path) + 1 for _, path in expected]
        assert [entry["probability"][i] for entry in shown] == pytest.approx([p for p, _ in expected], abs=1e-4)
    thumbnails = {path: pixels(read_thumbnail(folder / "data/images" / path, SIDE)) for path in paths}
    for entry in place["entries"]:
        path = paths[entry["number"] - 1]
        assert place["answers"][entry["truth"]] == truth[path]
        assert [answer == entry["truth"] for answer in entry["called"]] == [mean[path] > 0.5 for mean in means]
        picture = Image.open(io.BytesIO(base64.b64decode(section["images"][entry["image"]].partition(",")[2])))
        gaps = {other: np.abs(pixels(picture) - thumbnails[other]).mean() for other in paths}
        assert picture.format == "JPEG" and min(gaps, key=lambda other: gaps[other]) == path
    assert len(section["images"]) == len(place["entries"]) > 0
    assert re.search(rf"note: {len(section['images'])} test images are part of the page \(\d+ KiB\)", said)
    assert str(folder) not in json.dumps(section) and "test/" not in json.dumps(section)


def test_without_being_asked_for_no_image_is_in_the_page(folder: Path) -> None:
    section, _, status = report(folder)
    page = (folder / "results/report.html").read_text()
    assert status == 0 and section == {} and "image/jpeg" not in page and "wrongFigure" not in page


def test_hashed_names_are_found_by_the_key(folder: Path) -> None:
    section, said, status = report(folder, "--images", "100", results="hashed")
    assert status == 0, said
    root = folder / "data/images"
    key = read_key(root)
    by_name = {hashed(str(path.relative_to(root)), "image", key): path for path in (root / "test").rglob("*.png")}
    names = sorted(by_name)
    (place,) = section["places"]
    assert place["entries"]
    for entry in place["entries"]:
        assert by_name[names[entry["number"] - 1]].parent.name == place["answers"][entry["truth"]]
        assert entry["image"] is not None


def test_images_that_are_not_there_or_others_are_said_and_none_is_shown(folder: Path) -> None:
    (folder / "data/images/test/dark/0.png").write_bytes((folder / "data/images/test/bright/0.png").read_bytes())
    section, said, status = report(folder, "--images", "3")
    assert (
        status == 1 and section == {} and "images of images must be those that the runs had, got other images" in said
    )
    shutil.rmtree(folder / "data/images")
    section, said, status = report(folder, "--images", "3")
    assert status == 1 and section == {} and "dataset must be one of" in said and "Traceback" not in said
    ended = finish_inside(folder, "report", "--images", "0")
    assert ended.returncode == 2 and "images must be at least 1, got '0'" in ended.stderr


def test_choices_are_those_of_naive_loops() -> None:
    rng = np.random.default_rng(3)
    for methods in (1, 2, 5):
        of_truth = rng.random((methods, 40))
        wrong = of_truth < 0.5
        found = chosen_images(of_truth, wrong, 7)
        most, differ = [], []
        for i in range(40):
            missed = sum(bool(wrong[m][i]) for m in range(methods))
            if missed:
                most.append((-missed, sum(of_truth[m][i] for m in range(methods)) / methods, i))
            if 0 < missed < methods:
                differ.append(
                    (min(of_truth[m][i] for m in range(methods)) - max(of_truth[m][i] for m in range(methods)), i)
                )
        assert found["most"] == [i for *_, i in sorted(most)[:7]] and found["differ"] == [
            i for _, i in sorted(differ)[:7]
        ]
        for m in range(methods):
            assert found[str(m)] == [i for _, i in sorted((of_truth[m][i], i) for i in range(40) if wrong[m][i])[:7]]


def test_findings_are_asked_for_one_by_one_and_the_unknown_left_out(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    rows = [
        "split,path,target_a,target_b,prob_a,prob_b",
        "test,c.png,1,,0.25,0.5",
        "test,a.png,0,1,0.75,0.125",
        "val,b.png,0,0,0,0",
    ]
    for run_id, shift in (("r-0", 0.0), ("r-1", 0.125)):
        cells = [row.split(",") for row in rows]
        moved = [cells[0], *([*row[:4], str(float(row[4]) + shift), row[5]] for row in cells[1:])]
        predictions_path(tmp_path, run_id).write_text("\n".join(map(",".join, moved)))
    table = pd.DataFrame({"label": ["LoRA"], "run_ids": ["r-0 r-1"], "dataset_label": ["d"], "resolution": [64]})
    a, b = _questions(Shown(tmp_path, pd.DataFrame(), {}, table, [], False), table)
    assert (a.finding, a.paths, a.numbers.tolist(), a.truth.tolist()) == ("a", ["a.png", "c.png"], [1, 2], [0, 1])
    assert a.probabilities[0].tolist() == [[0.1875, 0.8125], [0.6875, 0.3125]]
    assert (b.finding, b.paths, b.numbers.tolist(), b.truth.tolist()) == ("b", ["a.png"], [1], [1])


@pytest.mark.browser
def test_they_are_shown_chosen_by_method_and_fit_a_phone(folder: Path) -> None:
    section, _, _ = report(folder, "--images", "3")
    (place,) = section["places"]
    with browser(folder / "profile") as chrome:
        chrome.get((folder / "results/report.html").as_uri())
        settle(chrome)
        assert console(chrome) == []
        assert requests(chrome) == [(folder / "results/report.html").as_uri()]
        assert len(texts(chrome, "#wrong-images figure")) == len(place["orders"]["most"])
        choose(chrome, "wrong-order", "what BitFit gets wrong")
        shown = [place["entries"][entry] for entry in place["orders"]["1"]]
        assert texts(chrome, "#wrong-images strong") == [
            f"Image {entry['number']}: {place['answers'][entry['truth']]}" for entry in shown
        ]
        assert texts(chrome, "#wrong-images li")[0].startswith("✗ BitFit: ")
        assert "wrong-order=BitFit" in chrome.current_url
        pictures = chrome.find_elements("css selector", "#wrong-images img")
        assert len(pictures) == len(shown) > 0 and all(picture.get_attribute("alt") for picture in pictures)
        set_width(chrome, 390)
        assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        assert find(chrome, "#wrong .caption").text.startswith("Probabilities are means")
