"""The embedded demo: synthetic fundus-like images that let the suite run anywhere. Never clinical data.

Vessels, optic disc and macula vary at random in both classes; lesions alone tell them apart. Half of the ill images
have large ones, which are seen at any size, half small ones, each ringed so that it cancels out when the image is
reduced (see `datasets.fundus`): a method that learns the large ones alone reaches an AUC of about 0.75.

Measured with `bench.py --suite demo --seeds 0 1 2 3 4` on a CPU: test AUC, mean and standard deviation over five seeds,
with the budget below (96 steps). FPT starts from a side network of random weights, and this budget is short for it: its
loss has hardly begun to fall. The lowest AUC at 196 px is its 0.76.

| | 98 px | 196 px |
|---|---|---|
| Full fine-tuning | 0.84 (0.10) | 1.00 (0.00) |
| Linear probe | 0.86 (0.04) | 1.00 (0.00) |
| LoRA | 0.92 (0.06) | 1.00 (0.00) |
| VPT-Deep | 0.78 (0.06) | 0.98 (0.03) |
| Adapter | 0.89 (0.05) | 0.97 (0.06) |
| FPT | 0.80 (0.04) | 0.87 (0.11) |
| FPT+ | 0.85 (0.04) | 0.96 (0.04) |

The AUC of 48 test images has a sampling error of some points of its own.
"""

from pathlib import Path

import numpy as np

from datasets.fundus import LARGE, SMALL, draw_fundus
from datasets.info import DatasetInfo

SEED = 2024
COUNTS = {"train": 32, "val": 16, "test": 48}
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
    batch_size=1,
    synthetic=True,
    expected={"total": sum(COUNTS.values())},
    licence="CC0",
    generate=generate,
)
