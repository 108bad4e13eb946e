"""Tiny raw downloads of NIH ChestX-ray14 and CheXpert, with the names and quirks of the real ones."""

from pathlib import Path

import numpy as np
from raw_trees import picture, save, text

from datasets.chexpert import OBSERVATIONS
from datasets.nih_cxr14 import FINDINGS

PATIENTS = {"train": 130, "test": 24}  # two images each


def nih_cxr14(root: Path) -> None:
    """Folders of archives, bars between findings, a PNG with transparency, a header with a comma in it."""
    rng = np.random.default_rng(0)
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    ]
    lists: dict[str, list[str]] = {"train": [], "test": []}
    number = 0
    for split, count in PATIENTS.items():
        for _ in range(count):
            number += 1
            for visit in range(2):
                name = f"{number:08}_{visit:03}.png"
                there = [FINDINGS[number % 14]] if visit and number % 5 == 0 else []
                there += ["Effusion"] if rng.random() < 0.5 else []
                mode = "RGBA" if number == 3 else "L"
                save(picture(2 * number + visit, mode), root / f"images_{1 + number % 12:03}" / "images" / name)
                said = "|".join(dict.fromkeys(there)) or "No Finding"
                lines.append(f"{name},{said},{visit},{number},58,M,PA,2682,2749,0.143,0.143,")
                lists[split].append(name)
    text(root / "Data_Entry_2017.csv", lines)
    text(root / "train_val_list.txt", lists["train"])
    text(root / "test_list.txt", lists["test"])


def chexpert(root: Path) -> None:
    """A folder a patient and study, frontal and lateral views, blanks for no mention, -1.0 for uncertain."""
    rng = np.random.default_rng(0)
    home, number = root / "CheXpert-v1.0-small", 0
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
    for name, count in (("train", PATIENTS["train"]), ("valid", PATIENTS["test"])):
        lines = [",".join(header)]
        for _ in range(count):
            number += 1
            for view, side in enumerate(("frontal", "lateral"), start=1):
                path = f"{name}/patient{number:05}/study1/view{view}_{side}.jpg"
                save(picture(7000 + 2 * number + view, "L"), home / path, "JPEG")
                values = {OBSERVATIONS[number % 14]: "1.0"} if number % 3 == 0 or name == "valid" else {}
                values |= {"Pleural Effusion": "1.0" if rng.random() < 0.5 else "0.0"}
                if name == "train" and number % 9 == 0:
                    values |= {"Edema": "-1.0"}
                said = [values.get(each, "") for each in OBSERVATIONS]
                lines.append(",".join([f"{home.name}/{path}", "Female", "68", side.title(), "AP", *said]))
        text(home / f"{name}.csv", lines)
