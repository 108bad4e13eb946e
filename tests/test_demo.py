"""The demo dataset: the same bytes everywhere, classes that differ in small lesions alone, never clinical in name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data.dataset import open_dataset
from benchmarks.images.decode import read_image
from datasets import DATASETS, demo
from datasets.fundus import SIDE, draw_fundus

FIRST_FILES = {
    "train/synthetic_clear/synthetic_train_000.jpg": "289aac7f2ca6e8016073880cfd0e86b7",
    "train/synthetic_lesions/synthetic_train_001.jpg": "10651e6ac4cc522198fc9920f8ec2266",
}  # first half of the SHA-256


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COUNTS", {"train": 2, "val": 2, "test": 2})


@pytest.mark.usefixtures("small")
def test_the_demo_is_generated_at_first_use_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset("demo", tmp_path / "data", tmp_path / "cache")
    assert "generating the demo dataset" in capsys.readouterr().err
    assert dataset.synthetic
    assert "synthetic, not clinical" in dataset.title
    assert all(name.startswith("synthetic_") for name in dataset.classes)
    assert "NOT CLINICAL DATA" in (dataset.root / "NOT_CLINICAL_DATA.txt").read_text()
    assert dataset.counts() == {split: dict.fromkeys(dataset.classes, 1) for split in ("train", "val", "test")}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["demo"]

    assert open_dataset("demo", tmp_path / "data", tmp_path / "cache") == dataset
    assert capsys.readouterr().err == ""
    by_path = open_dataset(str(tmp_path / "data" / "demo"), tmp_path, tmp_path / "cache")
    assert by_path.synthetic and "synthetic, not clinical" in by_path.title


@pytest.mark.usefixtures("small")
def test_the_demo_is_the_same_on_every_machine(tmp_path: Path) -> None:
    demo.generate(tmp_path)
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:32] for name in FIRST_FILES}
    assert digests == FIRST_FILES


@pytest.mark.usefixtures("small")
def test_a_generation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rng: np.random.Generator, num_lesions: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw_fundus", fail)
    with pytest.raises(KeyboardInterrupt):
        open_dataset("demo", tmp_path / "data", tmp_path / "cache")
    assert list((tmp_path / "data").iterdir()) == []


def test_only_the_lesions_differ_and_they_fade_at_low_resolution(tmp_path: Path) -> None:
    clear, lesions = (draw_fundus(np.random.default_rng(3), count) for count in (0, 80))
    assert clear.size == lesions.size == (SIDE, SIDE)
    difference = np.abs(np.asarray(clear, dtype=int) - np.asarray(lesions, dtype=int)).max(axis=2)
    assert 0.001 < (difference > 8).mean() < 0.02
    energy = {}
    clear.save(tmp_path / "clear.png")
    lesions.save(tmp_path / "lesions.png")
    for side in (224, 448):
        images = [read_image(tmp_path / f"{name}.png", side).astype(float) for name in ("clear", "lesions")]
        energy[side] = np.square(images[0] - images[1]).mean()
    assert energy[224] < 0.6 * energy[448]


def test_the_defaults_of_the_demo_hold_for_its_images() -> None:
    info = DATASETS["demo"]
    images = [np.asarray(draw_fundus(np.random.default_rng([1, i]), 0), dtype=float) / 255 for i in range(4)]
    assert np.mean(images, axis=(0, 1, 2)) == pytest.approx(info.mean, abs=0.08)
    assert np.std(images, axis=(0, 1, 2)) == pytest.approx(info.std, abs=0.08)
