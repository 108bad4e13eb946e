"""ISIC 2018 task 3: dermoscopy, seven kinds of skin lesion, with its official splits."""

from datasets.info import DatasetInfo

DATASET = DatasetInfo(
    name="isic2018",
    title="ISIC 2018",
    classes=("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    mean=(0.7636, 0.5466, 0.5707),
    std=(0.1404, 0.1519, 0.1692),
    url="https://challenge.isic-archive.com/data/#2018",
    licence="CC BY-NC 4.0",
    citation="Codella et al. 2019 (arXiv 1902.03368); Tschandl et al. 2018 (arXiv 1803.10417)",
)
