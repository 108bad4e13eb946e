"""MedMNIST+: what its two-dimensional sets are. Each is a `.npz` file a size, read by `bench.py prepare medmnist`.

Names of the classes, in the order of the label numbers, are those of `medmnist/info.py` in the authors' package
(version 2.1.0), joined by "or" where it has a comma or brackets; the terms are those of its README.
"""

from collections.abc import Mapping
from typing import NamedTuple

URL = "https://medmnist.com"
SIZES = (28, 64, 128, 224)  # published side lengths, in pixels
_CITATION = "MedMNIST v2: Yang et al., Scientific Data 10:41, 2023; images: "
_TERMS = "CC BY 4.0"
_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip
_LITS = "Bilic et al., Medical Image Analysis 84:102680, 2023; Xu et al., IEEE TMI 38:1885, 2019"


class MedMnist(NamedTuple):
    """A two-dimensional set.

    Attributes:
        title: Its name as published.
        classes: By label number, or findings by column.
        images: Where the images come from, to be cited.
        licence: Terms.
        ordered: Whether the classes are grades.
        findings: Whether an image may have several of them, or none.
    """

    title: str
    classes: tuple[str, ...]
    images: str
    licence: str = _TERMS
    ordered: bool = False
    findings: bool = False

    @property
    def citation(self) -> str:
        """What to cite."""
        return _CITATION + self.images


SETS: Mapping[str, MedMnist] = {
    "pathmnist": MedMnist(
        "PathMNIST",
        (
            "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
            "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
        ),
        "Kather et al., PLOS Medicine 16:e1002730, 2019",
    ),
    "chestmnist": MedMnist(
        "ChestMNIST",
        (
            "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
            "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
        ),
        "Wang et al., ChestX-ray8, CVPR 2017",
        findings=True,
    ),
    "dermamnist": MedMnist(
        "DermaMNIST",
        (
            "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
            "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
        ),
        "Tschandl et al., Scientific Data 5:180161, 2018; Codella et al., arXiv:1902.03368, 2019",
        "CC BY-NC 4.0",
    ),
    "octmnist": MedMnist(
        "OCTMNIST",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        "Kermany et al., Cell 172:1122, 2018",
    ),
    "pneumoniamnist": MedMnist("PneumoniaMNIST", ("normal", "pneumonia"), "Kermany et al., Cell 172:1122, 2018"),
    "retinamnist": MedMnist(
        "RetinaMNIST", ("0", "1", "2", "3", "4"), "Liu et al. (DeepDRiD), Patterns 3:100512, 2022", ordered=True
    ),
    "breastmnist": MedMnist(
        "BreastMNIST", ("malignant", "normal or benign"), "Al-Dhabyani et al., Data in Brief 28:104863, 2020"
    ),
    "bloodmnist": MedMnist(
        "BloodMNIST",
        (
            "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
            "platelet",
        ),
        "Acevedo et al., Data in Brief 30:105474, 2020",
    ),
    "tissuemnist": MedMnist(
        "TissueMNIST",
        (
            "Collecting Duct or Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
            "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        "Ljosa et al. (BBBC051), Nature Methods 9:637, 2012; Woloshuk et al., Cytometry A 99:707, 2021",
    ),
    "organamnist": MedMnist("OrganAMNIST", _ORGANS, _LITS),
    "organcmnist": MedMnist("OrganCMNIST", _ORGANS, _LITS),
    "organsmnist": MedMnist("OrganSMNIST", _ORGANS, _LITS),
}  # fmt: skip
