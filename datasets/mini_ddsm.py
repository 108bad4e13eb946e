"""Mini-DDSM: mammograms; the label belongs to the case, so the healthy breast of a cancer case is labelled Cancer."""

from datasets.info import DatasetInfo

DATASET = DatasetInfo(
    name="mini_ddsm",
    title="Mini-DDSM",
    classes=("Normal", "Benign", "Cancer"),
    mean=(0.20267, 0.20267, 0.20267),  # published for the grey channel alone
    std=(0.22467, 0.22467, 0.22467),
    url="https://ardisdataset.github.io/MiniDDSM/",
    licence="none stated: cite, do not redistribute",
    citation="Lekamlage et al. 2020 (arXiv 2010.00494); DDSM: Heath et al. 2001",
)
