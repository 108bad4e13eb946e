"""A dataset of tiny images with several findings each, or none, and a table of them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("bright", "striped", "rare")
COUNTS = {"train": 40, "val": 28, "test": 32}


def make_findings(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Writes the dataset into a new folder; always the same bytes.

    Two images a patient. Of each finding something is unknown, in train and val something uncertain, and `rare` is too
    rare to be scored in test.
    """
    rng = np.random.default_rng(0)
    lines = [["path", "split", "group", *names]]
    (root / "scans").mkdir(parents=True)
    for split, count in COUNTS.items():
        for number in range(count):
            has = [int(rng.random() < 0.5), int(rng.random() < 0.45), int(number % 15 == 3)]
            pixels = rng.integers(0, 120, (40, 48, 3)) + 80 * has[0]
            pixels[::4] += 55 * has[1]
            Image.fromarray(pixels.astype(np.uint8)).save(root / "scans" / f"{split}{number}.png")
            said = [str(value) for value in has]
            said[number % 2] = "" if number % 9 == 4 else said[number % 2]
            said[0] = "-1" if number % 10 == 7 and split != "test" else said[0]
            lines.append([f"scans/{split}{number}.png", split, f"{split}{number // 2}", *said])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root
