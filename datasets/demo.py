"""The embedded demo: synthetic fundus-like images that let the suite run anywhere. Never clinical data."""

from pathlib import Path

import numpy as np

from datasets.fundus import draw_fundus
from datasets.info import DatasetInfo

SEED = 2024
COUNTS = {"train": 48, "val": 32, "test": 48}
NUM_LESIONS = (60, 100)


def generate(root: Path) -> None:
    """Writes the whole dataset into an existing folder; the same bytes on every machine."""
    (root / "NOT_CLINICAL_DATA.txt").write_text(NOTICE)
    for split_number, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            label = number % len(DATASET.classes)
            rng = np.random.default_rng([SEED, split_number, number])
            folder = root / split / DATASET.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            image = draw_fundus(rng, int(rng.integers(*NUM_LESIONS)) * label)
            image.save(folder / f"synthetic_{split}_{number:03d}.jpg", quality=95, subsampling=0)


NOTICE = """NOT CLINICAL DATA

Every image below this folder was drawn by a program (datasets/demo.py of this repository) from random numbers.
No patient, eye or camera is behind any of them, and no number measured on them says anything about medicine.
They exist so that the benchmark can be tried without downloading a dataset.
Free for any use (CC0). Delete this folder to have it generated again.
"""

DATASET = DatasetInfo(
    name="demo",
    title="Demo (synthetic, not clinical)",
    classes=("synthetic_clear", "synthetic_lesions"),
    mean=(0.4, 0.2, 0.1),
    std=(0.3, 0.15, 0.1),
    epochs=5,
    synthetic=True,
    licence="CC0",
    generate=generate,
)
