"""Tiny raw downloads of all eight datasets, with the names and quirks of the real ones; no real image is in them.

`python tests/raw_trees.py DIR` writes them all, prepares each, and draws a contact sheet of what came out.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openpyxl
import pydicom
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

GRADES = ("0", "1", "2", "3", "4")
ISIC = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")

# images in each class after prepare, summed over splits; then images left out
EXPECTED: dict[str, tuple[dict[str, int], int]] = {
    "messidor2": ({"0": 13, "1": 12, "2": 12, "3": 11, "4": 11}, 1),
    "ddr": (dict.fromkeys(GRADES, 5), 3 + 1),
    "isic2016": ({"benign": 20, "malignant": 12}, 0),
    "isic2018": (dict.fromkeys(ISIC, 6), 1),
    "mini_ddsm": ({"Normal": 16, "Benign": 16, "Cancer": 16}, 0),
    "cmmd": ({"Benign": 16, "Malignant": 12}, 4),
    "covid": ({"covid": 8, "normal": 8, "virus": 9}, 0),
    "chncxr": ({"normal": 6, "tuberculosis": 7}, 662 - 13),
}


def pixels(seed: int, width: int = 48, height: int = 36, channels: int = 3, word: str = "") -> npt.NDArray[np.uint8]:
    """Random squares of six pixels, no two seeds alike, under a word that says what they should be labelled."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (-(-height // 6), -(-width // 6), channels), dtype=np.uint8)
    squares = coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]
    image = Image.fromarray(squares[..., 0] if channels == 1 else squares)
    if word:
        ImageDraw.Draw(image).rectangle((0, 0, width, 11), fill=0)
        ImageDraw.Draw(image).text((1, 0), word, fill="white")
    return np.asarray(image).reshape(height, width, channels)


def picture(seed: int, mode: str = "RGB", width: int = 48, height: int = 36, word: str = "") -> Image.Image:
    """An image of those squares."""
    if mode == "L":
        return Image.fromarray(pixels(seed, width, height, 1, word)[..., 0])
    return Image.fromarray(pixels(seed, width, height, 3, word)).convert(mode)


def save(image: Image.Image, path: Path, kind: str | None = None, **options: Any) -> Path:
    """Writes an image into a tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)
    return path


def text(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Writes a text file into a tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def workbook(path: Path, sheet: str, rows: Iterable[Iterable[Any]]) -> None:
    """Writes an xlsx file; what it says stands in the second of its sheets unless that is named Sheet1."""
    book = openpyxl.Workbook(write_only=True)
    if sheet != "Sheet1":
        book.create_sheet("Read me")
    page = book.create_sheet(sheet)
    for row in rows:
        page.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def zip_tree(folder: Path, archive: Path) -> None:
    """Packs a folder, with its own name inside, and deletes it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(folder.rglob("*")):
            made.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)


def messidor2(root: Path) -> None:
    """Pairs of unlike names, `.JPG` on disk for `.jpg` in the table, blank rows, grades as floats, one ungradable."""
    pairs, grades, number = [], [], 0
    for exam in range(30):
        names = []
        for eye in range(2):
            number += 1
            grade = 0 if exam == 8 and eye else exam % 5  # one exam of two grades
            if exam < 20:
                name = listed = f"200510{20 + exam % 3}_{43808 + 7 * number}_0{1 + eye}00_PP.png"
                save(picture(number, word=f"gr {grade}"), root / "IMAGES" / name)
            else:
                name, listed = f"IM{4000 + number:06}.JPG", f"IM{4000 + number:06}.jpg"
                save(picture(number, word=f"gr {grade}"), root / "IMAGES" / name, "JPEG")
            names.append(name)
            ungradable = exam == 9 and eye == 1
            grades.append(f"{listed},,0,0" if ungradable else f"{listed},{float(grade)},0,1")
        pairs.append(";".join(names))
    text(root / "messidor-2.csv", ["left;right ", *pairs, "", ";"], "\r\n")
    text(root / "messidor_data.csv", ["image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable", *grades])
    text(root / "messidor_readme.txt", ["About this file, which is not a table, and has commas"])


def ddr(root: Path) -> None:
    """Lists without a header, grade 5, lists and images of other tasks under the same names, an image in two splits."""
    home, seed = root / "DDR-dataset" / "DR_grading", 1000
    for number, (split, per_grade) in enumerate((("train", 3), ("valid", 1), ("test", 1))):
        lines = []
        for grade in range(6):
            for item in range(per_grade if grade < 5 else 1):
                seed += 1
                name = f"{7:03}-{1000 * number + 10 * grade + item:04}-{grade}00.jpg"
                if grade == 1:
                    name = f"2017032309330{number}{grade}{item:02}.jpg"
                save(picture(seed, width=60, height=40, word=f"gr {grade}"), home / split / name, quality=92)
                lines.append(f"{name} {grade}")
        if split == "train":
            lines.append("007-9999-000.jpg 0")
        text(home / f"{split}.txt", lines)
    shutil.copy(home / "test" / "007-2000-000.jpg", home / "train" / "007-9999-000.jpg")
    text(root / "DDR-dataset" / "lesion_segmentation" / "train.txt", ["007-0000-000.jpg"])
    save(picture(999), root / "DDR-dataset" / "lesion_segmentation" / "train" / "image" / "007-0000-000.jpg")


def isic2016(root: Path) -> None:
    """Tables without a header, in words and in numbers; Part3B beside them."""
    for part, benign, malignant, start in (("Training", 16, 8, 0), ("Test", 4, 4, 3)):
        lines = []
        for item in range(benign + malignant):
            image = f"ISIC_{start + 7 * item:07}"
            bad = item >= benign
            shown = picture(2000 + start + 7 * item, word=("benign", "malign")[bad])
            save(shown, root / f"ISBI2016_ISIC_Part3_{part}_Data" / f"{image}.jpg")
            lines.append(f"{image},{'malignant' if bad else 'benign'}" if part == "Training" else f"{image},{bad:.1f}")
        text(root / f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv", lines)
    text(root / "ISBI2016_ISIC_Part3B_Training_GroundTruth.csv", ["img,seg", "ISIC_0000000,ISIC_0000000_Segmentation"])
    save(picture(1, "L"), root / "ISBI2016_ISIC_Part3B_Training_Data" / "ISIC_0000000_Segmentation.png")


def isic2018(root: Path, scored_only: bool = False) -> None:
    """One-hot tables, lesions of several images, licence texts among the images, the image that is not scored."""
    lesions = []
    seed = 24306
    for part, images in (("Training", 4), ("Validation", 1), ("Test", 1)):
        folder = root / f"ISIC2018_Task3_{part}_Input"
        rows = []
        for label in range(len(ISIC)):
            for item in range(images):
                seed += 1
                image = f"ISIC_{seed:07}"
                save(picture(seed, width=60, height=45, word=ISIC[label]), folder / f"{image}.jpg", quality=90)
                rows.append(f"{image}," + ",".join(f"{float(hot == label)}" for hot in range(len(ISIC))))
                if part == "Training":
                    lesions.append(f"{image},HAM_{seed - item % 2:07},histopathology")
        if part == "Test":
            rows.append("ISIC_0035068,0.0,1.0,0.0,0.0,0.0,0.0,0.0")
            if not scored_only:
                save(picture(35068), folder / "ISIC_0035068.jpg")
        for kind in ("Input", "GroundTruth"):
            text(root / f"ISIC2018_Task3_{part}_{kind}" / "ATTRIBUTION.txt", ["(c) ViDIR Group, CC BY-NC 4.0"])
            text(root / f"ISIC2018_Task3_{part}_{kind}" / "LICENSE.txt", ["CC BY-NC 4.0"])
        table = f"ISIC2018_Task3_{part}_GroundTruth"
        text(root / table / f"{table}.csv", ["image," + ",".join(ISIC), *rows])
        zip_tree(root / table, root / f"{table}.zip")
        seed = {"Training": 34320, "Validation": 34523, "Test": 0}[part]
    text(root / "ISIC2018_Task3_Training_LesionGroupings.csv", ["image,lesion_id,diagnosis_confirm_type", *lesions])


def mini_ddsm(root: Path) -> None:
    """JPEG and 16-bit PNG of the same images, case numbers shared by classes, masks with suffix and with prefix."""
    rows: list[list[Any]] = [
        ["fullPath", "fileName", "View", "Side", "Status", "Tumour_Contour", "Tumour_Contour2", "Age", "Density"]
    ]
    seed = 4000
    for letter, status in (("A", "Normal"), ("B", "Benign"), ("C", "Cancer")):
        for case in range(4):
            folder = f"{case + 1:04}"
            for side in ("LEFT", "RIGHT"):
                for view in ("CC", "MLO"):
                    seed += 1
                    stem = f"{letter}_{case + 1:04}_1.{side}_{view}"
                    grey = picture(seed, "L", 40, 60, status)
                    save(grey, root / "MINI-DDSM-Complete-JPEG-8" / status / folder / f"{stem}.jpg")
                    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
                    save(deep, root / "MINI-DDSM-Complete-PNG-16" / status / folder / f"{stem}.png")
                    age: Any = "NaN" if case == 3 else 50
                    path = f"{status}\\{folder}\\{stem}.jpg"
                    rows.append([path, f"{stem}.jpg", view, side, status, "-", "-", age, case])
            text(root / "MINI-DDSM-Complete-JPEG-8" / status / folder / f"{letter}-{case + 1:04}-1.ics", ["DENSITY 2"])
    cancer = root / "MINI-DDSM-Complete-JPEG-8" / "Cancer" / "0001"
    for mask in ("C_0001_1.LEFT_CC_Mask", "C_0001_1.LEFT_CC_MASK2", "Mask_C_0001_1.LEFT_MLO", "C_0001_1.LEFT_CC_Mask2"):
        save(picture(3, "1"), cancer / f"{mask}.jpg")
    workbook(root / "MINI-DDSM-Complete-JPEG-8" / "DataWMask.xlsx", "Data", rows)
    save(picture(4), root / "Data-MoreThanTwoMasks" / "Cancer" / "0001" / "C_0001_1.LEFT_CC.jpg")
    workbook(root / "Data-MoreThanTwoMasks" / "Data-MoreThanTwoMasks.xlsx", "Data", rows[:2])


def cmmd(root: Path) -> None:
    """Four images with one row, patients with a benign and a malignant breast, 16 bits, MONOCHROME1, repeated names."""
    home = root / "manifest-1616439774456"
    rows: list[list[Any]] = [["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]]
    seed = 5000
    for number in range(12):
        patient = f"D{1 + number % 2}-{number + 1:04}"
        labelled = {"L": "Malignant" if number % 2 else "Benign"}
        if number in (1, 3):
            labelled["R"] = "Benign"
        unlabelled = "R" if number in (0, 5) else ""
        for side, label in labelled.items():
            rows.append([patient, side, 45, 2, "mass", label, None])
        series = home / "CMMD" / patient / f"07-18-2010-NA-NA-{79377 + number}" / "1.000000-NA-70244"
        views = [(side, view) for side in (*labelled, unlabelled) if side for view in ("CC", "MLO")]
        for item, (side, view) in enumerate(views, start=1):
            seed += 1
            write_dicom(series / f"1-{item}.dcm", seed, patient, side, view, number, labelled.get(side, "none"))
    text(home / "metadata.csv", ["Series UID,Subject ID,File Location", "1.2.3,D1-0001,.\\CMMD\\D1-0001"])
    workbook(root / "CMMD_clinicaldata_revision.xlsx", "Sheet1", rows)


def write_dicom(path: Path, seed: int, patient: str, side: str, view: str, number: int, word: str = "") -> None:
    """One mammogram; every fifth patient's has 16 bits, every seventh's is MONOCHROME1."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    header.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    header.PatientID, header.ImageLaterality = patient, side
    code = Dataset()
    code.CodeValue = {"CC": "399162004", "MLO": "399368009"}[view]
    header.ViewCodeSequence = [code]
    grey = pixels(seed, 40, 60, 1, word)[..., 0]
    header.Rows, header.Columns = grey.shape
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.PhotometricInterpretation = "MONOCHROME1" if number % 7 == 6 else "MONOCHROME2"
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    bits = 16 if number % 5 == 4 else 8
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    stored = grey.astype(np.uint16) * 16 if bits == 16 else grey
    if bits == 16:
        header.WindowCenter, header.WindowWidth = "2048", "4096"
    header.PixelData = stored.tobytes()
    header["PixelData"].VR = "OW" if bits == 16 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)


def covid(root: Path) -> None:
    """Every format and mode, no extension, `.jfif`, patients in some names, an image twice, a name with two endings."""
    home = root / "COVID_IEEE"
    for number in range(5):
        save(picture(6000 + number, word="covid"), home / "covid" / f"covid ({number}).jpeg", "JPEG")
    save(picture(6010, "RGBA", word="covid"), home / "covid" / "auntminnie-a-2020.png")
    save(picture(6011, word="covid"), home / "covid" / "ryct.2020200034.fig2", "JPEG")
    save(picture(6012, "CMYK", word="covid"), home / "covid" / "1-s2.0.jfif", "JPEG")
    for number in range(4):
        save(
            picture(6020 + number, "L", word="normal"),
            home / "normal" / f"IM-{115 + number // 2:04}-000{number % 2 + 1}.jpeg",
            "JPEG",
        )
    save(picture(6024, "P", word="normal"), home / "normal" / "NORMAL2-IM-0027-0001.png")
    save(picture(6025, "LA", word="normal"), home / "normal" / "scan.png")
    save(picture(6026, word="normal"), home / "normal" / "scan.jpg", "JPEG")
    shutil.copy(home / "normal" / "IM-0115-0001.jpeg", home / "normal" / "copy-of-another.jpeg")
    for number in range(8):
        save(
            picture(6030 + number, word="virus"),
            home / "virus" / f"person{number // 2 + 1}_virus_{number + 5}.jpeg",
            "JPEG",
        )
    rotated = Image.Exif()
    rotated[0x0112] = 6
    save(picture(6040, word="virus"), home / "virus" / "person9_virus_1", "JPEG", exif=rotated)
    (home / "virus" / "Thumbs.db").write_bytes(b"litter")


def chncxr(root: Path) -> None:
    """Palette, grey and RGB; images repeated in another folder, another set mixed in, litter."""
    home = root / "ChinaSet_AllFiles" / "ChinaSet_AllFiles"
    numbers = [*range(1, 7), *range(327, 334)]
    for number in numbers:
        mode = ("RGB", "P", "L")[number % 3]
        stem = f"CHNCXR_{number:04}_{int(number > 326)}"
        save(picture(7000 + number, mode, 60, 60, ("normal", "TB")[number > 326]), home / "CXR_png" / f"{stem}.png")
        text(home / "ClinicalReadings" / f"{stem}.txt", ["male 45yrs", "normal"])
    (home / "CXR_png" / "Thumbs.db").write_bytes(b"litter")
    save(picture(7999, "L"), home / "CXR_png" / "MCUCXR_0001_0.png")
    (home / "test").mkdir()
    shutil.copy(home / "CXR_png" / "CHNCXR_0001_0.png", home / "test")


BUILDERS: dict[str, Callable[[Path], None]] = {
    builder.__name__: builder for builder in (messidor2, ddr, isic2016, isic2018, mini_ddsm, cmmd, covid, chncxr)
}


def main(folder: Path) -> int:
    """Builds, prepares and checks all eight, with an image sheet of each; status 0 when all came out as expected.

    The trees are tiny: prepare is told to allow that, and check says that the downloads are incomplete.
    """
    failed = []
    for name, build in BUILDERS.items():
        build(folder / "raw" / name)
        data = ["--data-root", str(folder / "data")]
        prepare = ["prepare", name, "--raw", str(folder / "raw" / name), *data, "--allow-incomplete"]
        check = ["check", name, *data, "--sheet", str(folder / f"{name}.png")]
        for command, expected in ((prepare, 0), (check, 1)):
            status = subprocess.run([sys.executable, "bench.py", *command], check=False).returncode
            if status != expected:
                failed.append(f"bench.py {' '.join(command)}: status {status}, not {expected}")
    print("\n".join(failed or ["all eight came out as expected"]), file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
