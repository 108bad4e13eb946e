"""What people hold: five kinds of folders and tables of labelled images, small, of 12 patients with two images each."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from deep_images import dicom
from PIL import Image

PATIENTS = 12  # of each of two classes
CLASSES = ("benign", "malignant")


def noise(seed: int, side: int = 24) -> Image.Image:
    """Unlike any other seed's."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def each() -> list[tuple[str, int, int, int]]:
    """Class, patient, image and a seed of every image."""
    return [
        (name, label * PATIENTS + patient, number, (label * PATIENTS + patient) * 2 + number)
        for label, name in enumerate(CLASSES)
        for patient in range(PATIENTS)
        for number in range(2)
    ]


def class_folders(root: Path) -> Path:
    """`own/benign/7_0.png`"""
    for name, patient, number, seed in each():
        (root / "own" / name).mkdir(parents=True, exist_ok=True)
        noise(seed).save(root / "own" / name / f"{patient}_{number}.png")
    return root / "own"


def patient_folders(root: Path) -> Path:
    """`own/benign/patient7/0.jpg`: names of files repeat."""
    for name, patient, number, seed in each():
        (root / "own" / name / f"patient{patient}").mkdir(parents=True, exist_ok=True)
        noise(seed).save(root / "own" / name / f"patient{patient}/{number}.jpg")
    return root / "own"


def given_test(root: Path) -> Path:
    """`own/train/benign/7_0.png` and `own/test/...`: two patients of each class test."""
    for name, patient, number, seed in each():
        folder = root / "own" / ("test" if patient % PATIENTS < 2 else "train") / name
        folder.mkdir(parents=True, exist_ok=True)
        noise(seed).save(folder / f"{patient}_{number}.png")
    return root / "own"


def table(root: Path) -> Path:
    """`own.csv` with ids without suffix, and all images in one folder below it."""
    (root / "all/deep").mkdir(parents=True)
    with (root / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Image_ID", "Diagnosis", "Patient"])
        for name, patient, _, seed in each():
            noise(seed).save(root / f"all/deep/IMG{seed:04}.PNG")
            writer.writerow([f"img{seed:04}", name, f"p{patient}"])
    return root / "own.csv"


def dicom_folders(root: Path) -> Path:
    """`own/benign/3` without suffixes, 12 bits, patients in the headers alone."""
    for name, patient, _, seed in each():
        (root / "own" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 4096, (24, 24)).astype(np.uint16)
        (root / "own" / name / str(seed)).write_bytes(dicom(pixels, PatientID=f"D{patient}"))
    return root / "own"


KINDS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "class folders": (class_folders, ["--group-pattern", r"(\d+)_"]),
    "folders of patients": (patient_folders, ["--group-pattern", r"^(.+)/"]),
    "a test split": (given_test, ["--group-pattern", r"(\d+)_"]),
    "a table": (table, ["--groups", "Patient"]),
    "DICOM": (dicom_folders, ["--groups", "PatientID"]),
}
