"""Messidor-2: fundus photographs, five grades of diabetic retinopathy (0 none to 4 proliferative)."""

from datasets.info import DatasetInfo

DATASET = DatasetInfo(
    name="messidor2",
    title="Messidor-2",
    classes=("0", "1", "2", "3", "4"),
    mean=(0.4844, 0.2238, 0.0758),
    std=(0.2939, 0.1472, 0.0635),
    url="https://www.adcis.net/en/third-party/messidor2/",
    licence="research and education only, no redistribution",
    citation="Decencière et al. 2014; Abràmoff et al. 2013; grades: Krause et al. 2018",
)
