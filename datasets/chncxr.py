"""CHNCXR (Shenzhen): chest X-rays, normal or with tuberculosis. The last digit of the file name is the label.

What lies in `CXR_png`, the publisher's folder, wins over copies elsewhere, whatever bytes these have. Whether a patient
has two images is not published. Copies that mix in the Montgomery set (MCUCXR_...) are filtered.
"""

from benchmarks.raw.files import RawFile, RawFiles
from benchmarks.raw.tables import NotFoundError
from datasets.info import DatasetInfo, Found, RawSample

CLASSES = ("normal", "tuberculosis")
NAME = r"CHNCXR_\d{4}_[01]"
HOME = "CXR_png"
NUM_IMAGES, NUM_NORMAL = 662, 326  # numbered from 1, the normal ones first


def find(files: RawFiles) -> Found:
    """Images by name, labels by its last digit."""
    images = _images(files)
    if not images:
        raise NotFoundError("images like CXR_png/CHNCXR_0001_0.png")
    samples = [
        RawSample(file, CLASSES[int(name[-1])], name.split("_")[1], file.stem) for name, file in sorted(images.items())
    ]
    listed = (f"CHNCXR_{number:04}_{int(number > NUM_NORMAL)}" for number in range(1, NUM_IMAGES + 1))
    return Found(samples, missing=[name for name in listed if name.lower() not in images])


def _images(files: RawFiles) -> dict[str, RawFile]:
    pictures = [file for file in files.files if file.name.lower().endswith(".png")]
    own = files.images(NAME, (file for file in pictures if file.folders[-1:] == (HOME,)))
    others = (file for file in pictures if file.stem.lower() not in own)
    return own | files.images(NAME, others)


DATASET = DatasetInfo(
    name="chncxr",
    title="CHNCXR",
    classes=CLASSES,
    mean=(0.6105, 0.6105, 0.6105),  # published for the grey channel alone
    std=(0.2585, 0.2585, 0.2585),
    url="https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Shenzhen-Hospital-CXR-Set/",
    download=("the folder CXR_png (3.8 GB), or ChinaSet_AllFiles.zip with it",),
    licence="NLM: do not share outside your research group; attribute NLM/NIH and Shenzhen No.3 People's Hospital",
    citation="Jaeger et al. 2014; Candemir et al. 2014",
    group_key="file number",
    expected={"total": 662, "normal": 326, "tuberculosis": 336},
    signature=r"CHNCXR_\d{4}_[01]\.|ChinaSet_AllFiles",
    mistaken={"the Montgomery set": r"(^|/)MCUCXR_\d{4}_[01]\.|MontgomerySet"},
    find=find,
)
