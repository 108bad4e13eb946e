"""The demo dataset: the same bytes everywhere, classes that differ in small lesions alone, never clinical in name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data.dataset import open_dataset
from benchmarks.images.decode import read_image
from datasets import DATASETS, demo
from datasets.fundus import LARGE, SIDE, SMALL, Lesions, _add_lesions, draw_fundus

FIRST_FILES = {
    "train/synthetic_clear/synthetic_train_000.jpg": "09d8c43b19732c1c4017386d24f8b684",
    "train/synthetic_lesions/synthetic_train_001.jpg": "58bbd9a09e28488fbcc8fd55faff6055",
    "train/synthetic_lesions/synthetic_train_003.jpg": "01fe8028e093e2072f37b929df175963",
}  # first half of the SHA-256


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COUNTS", {"train": 4, "val": 2, "test": 2})


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
    assert dataset.counts() == {
        split: dict.fromkeys(dataset.classes, count) for split, count in (("train", 2), ("val", 1), ("test", 1))
    }
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
    def fail(rng: np.random.Generator, lesions: Lesions | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw_fundus", fail)
    with pytest.raises(KeyboardInterrupt):
        open_dataset("demo", tmp_path / "data", tmp_path / "cache")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(("lesions", "share"), [(LARGE, 0.08), (SMALL, 0.03)], ids=["large", "small"])
def test_only_the_lesions_differ(lesions: Lesions, share: float) -> None:
    clear, ill = (draw_fundus(np.random.default_rng(3), kind) for kind in (None, lesions))
    assert clear.size == ill.size == (SIDE, SIDE)
    difference = np.abs(np.asarray(clear, dtype=int) - np.asarray(ill, dtype=int)).max(axis=2)
    assert share / 2 < (difference > 8).mean() < 2 * share


def test_small_lesions_fade_at_low_resolution_and_large_ones_do_not(tmp_path: Path) -> None:
    """Squared difference that the lesions make: of what 196 px show, 98 px keep most or little."""
    kept = {}
    for name, lesions in (("large", LARGE), ("small", SMALL)):
        for kind in (None, lesions):
            draw_fundus(np.random.default_rng(3), kind).save(tmp_path / f"{kind is None}.png")
        energy = {
            side: np.square(
                np.subtract(*(read_image(tmp_path / f"{it}.png", side).astype(float) for it in (True, False)))
            ).mean()
            for side in (98, 196)
        }
        kept[name] = energy[98] / energy[196]
    assert kept["large"] > 0.8
    assert kept["small"] < 0.4


def test_a_lesion_with_a_ring_takes_no_light_and_one_without_does() -> None:
    """Of a flat image the integral of the profile: a third of the disc's area times its depth, or nothing."""

    def lost(ring: float | None) -> float:
        image = np.ones((SIDE, SIDE, 1), dtype=np.float32)
        one = Lesions(number=(1, 2), radius=(20, 20), depth=(0.5, 0.5), ring=ring)
        _add_lesions(image, one, np.random.default_rng(0))
        return float((1 - image.astype(float)).sum())

    assert lost(None) == pytest.approx(0.5 * np.pi * 20**2 / 3, rel=0.01)
    assert lost(1.4) == pytest.approx(0, abs=1)


def test_the_defaults_of_the_demo_hold_for_its_images() -> None:
    info = DATASETS["demo"]
    images = [np.asarray(draw_fundus(np.random.default_rng([1, i]), None), dtype=float) / 255 for i in range(4)]
    assert np.mean(images, axis=(0, 1, 2)) == pytest.approx(info.mean, abs=0.08)
    assert np.std(images, axis=(0, 1, 2)) == pytest.approx(info.std, abs=0.08)
