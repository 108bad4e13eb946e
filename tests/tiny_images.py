"""A dataset of tiny images whose classes differ in brightness, for tests that really run something."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.data.image_store import ImageStore
from benchmarks.images.decode import Pixels

NOTED = {"groups", "few"}  # checks with a note on these images: they are few, and no patients are known
COUNTS = {"train": 5, "val": 3, "test": 4}  # of each class


def make_images(root: Path, classes: tuple[str, ...] = ("bright", "dark")) -> Path:
    """Writes the dataset into a new folder; always the same bytes."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 160, (40, 48, 3)) + 60 // (label + 1)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number}.png")
    return root


def all_of(store: ImageStore) -> Pixels:
    """Every image of a store."""
    return store[np.arange(store.shape[0])]
