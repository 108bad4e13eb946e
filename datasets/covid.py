"""COVID CXR Image Dataset (Research): chest X-rays with COVID-19, without findings, and with viral pneumonia."""

from datasets.info import DatasetInfo

DATASET = DatasetInfo(
    name="covid",
    title="COVID",
    classes=("covid", "normal", "virus"),
    mean=(0.4983, 0.4986, 0.4989),
    std=(0.2426, 0.2426, 0.2426),
    url="https://www.kaggle.com/datasets/sid321axn/covid-cxr-image-dataset-research",
    licence="not stated: do not redistribute",
    citation="COVID CXR Image Dataset (Research), Kaggle, sid321axn",
)
