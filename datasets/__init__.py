"""The table of datasets. A new dataset is one file here and one line below."""

from datasets import chexpert, chncxr, cmmd, covid, ddr, demo, isic2016, isic2018, messidor2, mini_ddsm, nih_cxr14
from datasets.info import DatasetInfo

DATASETS: dict[str, DatasetInfo] = {
    module.DATASET.name: module.DATASET
    for module in (messidor2, ddr, isic2016, isic2018, mini_ddsm, cmmd, covid, chncxr, nih_cxr14, chexpert, demo)
}
